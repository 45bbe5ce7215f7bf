package spec

import "strings"

// Sets of characters that names are made of.
const (
	digits  = "0123456789"
	lower   = "abcdefghijklmnopqrstuvwxyz"
	letters = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// madeOf says that a text begins with a character of first and goes on with
// those of rest: a regular expression's job, without its cost for each of a
// thousand VMs.
func madeOf(s, first, rest string) bool {
	if s == "" || strings.IndexByte(first, s[0]) < 0 {
		return false
	}
	for i := 1; i < len(s); i++ {
		if strings.IndexByte(rest, s[i]) < 0 {
			return false
		}
	}
	return true
}

// endsIn says that a text's last character is one of set.
func endsIn(s, set string) bool {
	return s != "" && strings.IndexByte(set, s[len(s)-1]) >= 0
}

// packageName says that a name can be a Debian package's (Debian policy 5.6.7);
// one that ends in "-" apt would take as "remove".
func packageName(s string) bool {
	const longest = 128
	return len(s) > 1 && len(s) <= longest && madeOf(s, lower+digits, lower+digits+"+.-") && endsIn(s, lower+digits+"+.")
}
