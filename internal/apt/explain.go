package apt

import (
	"fmt"
	"regexp"
	"strings"
)

// problem is a message of apt's and what it means to a person.
type problem struct {
	pattern *regexp.Regexp
	// meaning is a format for the pattern's groups.
	meaning string
}

// problems are in the order in which they explain best: the missing key before
// "is not signed", the download that failed before what misses it.
func problems() []problem {
	return []problem{
		{regexp.MustCompile(`(?m)^[EW]: Unable to locate package (\S+)`),
			"no package %q in the package sources"},
		{regexp.MustCompile(`(?m)^E: Couldn't find any package by (?:glob|regex) '([^']+)'`),
			"no package %q in the package sources"},
		{regexp.MustCompile(`(?m)^E: Package '([^']+)' has no installation candidate`),
			"no package %q in the package sources"},
		{regexp.MustCompile(`NO_PUBKEY ([0-9A-F]+)`),
			"the keyring lacks the key %s that signs the package source"},
		{regexp.MustCompile(`(?m)^[EW]: (?:Release file for|.*Release') (\S+) is (?:not valid yet|expired)`),
			"the package source %s is out of date, or this machine's clock is wrong"},
		{regexp.MustCompile(`(?m)^[EW]: Failed to fetch (\S+)\s+(.+)$`),
			"package source %s: %s"},
		{regexp.MustCompile(`(?m)^E: The repository '([^']+)' (.+)$`),
			"package source %s %s"},
		{regexp.MustCompile(`(?m)^(?:Err|Ign):\d+ (\S+).*\n  (.+)$`),
			"package source %s: %s"},
		{regexp.MustCompile(`(?m)^dpkg: error processing package (\S+)`),
			"package %s can't be installed"},
		{regexp.MustCompile(`(?m)(No space left on device)`), "%s"},
		{regexp.MustCompile(`(?m)^E: (.+)$`), "%s"},
	}
}

// Explain finds in the output of an apt client the one line that says why it
// ended; "" when there is none. Credentials in URIs are left out.
func Explain(log string) string {
	for _, p := range problems() {
		found := p.pattern.FindStringSubmatch(log)
		if found == nil {
			continue
		}
		args := make([]any, 0, len(found)-1)
		for _, group := range found[1:] {
			args = append(args, Redact(strings.TrimSpace(group)))
		}
		return fmt.Sprintf(p.meaning, args...)
	}
	return ""
}

var credentials = regexp.MustCompile(`([a-z+]+://)[^/\s]+@`)

// Redact cuts the credentials out of every URI in text.
func Redact(text string) string { return credentials.ReplaceAllString(text, "$1") }
