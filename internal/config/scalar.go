package config

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
)

// The types of options that may be written as a number or as text.
type (
	memory  string // 4096, 512M, 4G
	seconds string // 30, 30s, 1m30s
	account string // 1000, alice
	ratio   string // 1, 1.5
)

const (
	memoryPattern  = `^[1-9][0-9]{0,8}[MmGg]?$`
	ratioPattern   = `^[0-9]{1,4}(\.[0-9]{1,6})?$`
	secondsPattern = `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
)

// mebibytes reads a memory size.
func (m memory) mebibytes() (int, error) {
	if !regexp.MustCompile(memoryPattern).MatchString(string(m)) {
		return 0, fmt.Errorf("%s is no memory size — write MB such as 4096, or 512M or 4G", quote(string(m)))
	}
	digits := strings.TrimRight(string(m), "MmGg")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("%s is no memory size: %w", quote(string(m)), err)
	}
	if strings.HasSuffix(strings.ToUpper(string(m)), "G") {
		n = min(n, math.MaxInt32/1024) * 1024
	}
	return min(n, math.MaxInt32), nil
}

// duration reads a number of seconds or Go's notation.
func (s seconds) duration() (time.Duration, error) {
	text := string(s)
	if isDecimal(text) {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%s is no duration — write seconds such as 30, or 30s or 2m", quote(string(s)))
	}
	return d, nil
}

// value reads a ratio in decimal notation.
func (r ratio) value() (float64, error) {
	if !regexp.MustCompile(ratioPattern).MatchString(string(r)) {
		return 0, fmt.Errorf("%s is no ratio — write for example 1.0 or 2.5", quote(string(r)))
	}
	f, err := strconv.ParseFloat(string(r), 64)
	if err != nil {
		return 0, fmt.Errorf("%s is no ratio: %w", quote(string(r)), err)
	}
	return f, nil
}

// isDecimal wants no sign but -, no leading 0 and no more than 18 digits.
func isDecimal(s string) bool {
	s = strings.TrimPrefix(s, "-")
	notDigit := func(r rune) bool { return r < '0' || r > '9' }
	return s != "" && len(s) <= 18 && !strings.ContainsFunc(s, notDigit) && (s[0] != '0' || s == "0")
}

func (memory) JSONSchema() *jsonschema.Schema {
	return numberOr(&jsonschema.Schema{Type: "string", Pattern: memoryPattern}, "128")
}

func (seconds) JSONSchema() *jsonschema.Schema {
	return numberOr(&jsonschema.Schema{Type: "string", Pattern: secondsPattern}, "1")
}

func (account) JSONSchema() *jsonschema.Schema {
	return numberOr(&jsonschema.Schema{Type: "string", Pattern: `^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`}, "1")
}

func (ratio) JSONSchema() *jsonschema.Schema {
	number := &jsonschema.Schema{Type: "number"}
	number.Minimum, number.Maximum = "0.1", "1000"
	return number
}

func numberOr(text *jsonschema.Schema, minimum string) *jsonschema.Schema {
	number := &jsonschema.Schema{Type: "integer"}
	number.Minimum = json.Number(minimum)
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{number, text}}
}
