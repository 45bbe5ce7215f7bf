package registries

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
)

// setting is a line of an ini file. section is "" before the first.
type setting struct{ section, key, value string }

// parseINI reads what npm and pip write: sections in brackets, `key = value` or
// `key: value` (only pip), values that go on in indented lines (only pip),
// comments behind "#" or ";" at a line's begin.
func parseINI(data []byte, pip bool) ([]setting, error) {
	var all []setting
	section := ""
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxFile+1)
	for lines.Scan() {
		line := lines.Text()
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#' || text[0] == ';':
		case pip && line[0] != text[0] && len(all) > 0:
			all[len(all)-1].value += "\n" + text
		case text[0] == '[':
			section = strings.Trim(text, "[]")
		default:
			separators := "="
			if pip {
				separators = "=:"
			}
			at := strings.IndexAny(text, separators)
			if at < 0 {
				at = len(text) // npm: a switch
			}
			value := strings.TrimPrefix(text[min(at, len(text)):], "=")
			if pip {
				value = strings.TrimLeft(value, "=:")
			}
			all = append(all, setting{section, strings.TrimSpace(text[:at]), strings.Trim(strings.TrimSpace(value), `"'`)})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return all, nil
}
