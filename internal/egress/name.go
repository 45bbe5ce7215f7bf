package egress

import (
	"errors"
	"net/netip"
	"strings"
)

// maxName is the longest name in text (RFC 1035, section 2.3.4).
const maxName = 253

var errName = errors.New("is no name of a host")

// cleanName gives a name in the form that rules and records have: lower case,
// no final dot. Numbers with dots are no names.
func cleanName(name string) (string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || len(name) > maxName {
		return "", errName
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || !plainLabel(label) {
			return "", errName
		}
	}
	if _, err := netip.ParseAddr(name); err == nil || allNumeric(name) {
		return "", errName
	}
	return name, nil
}

func plainLabel(label string) bool {
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// allNumeric says that the last label is a number, as in 127.1, which many
// programs take for an address.
func allNumeric(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x")
}

// forPrint makes bytes of a guest's fit for a log and a terminal.
func forPrint(text string) string {
	const most = 260
	if len(text) > most {
		text = text[:most]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, text)
}
