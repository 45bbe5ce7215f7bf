package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// Bounds of what TailLog reads and returns: a guest can make a program write
// what it likes.
const (
	tailBytes     = 16 << 10
	tailLineRunes = 400
)

// OpenLog opens a log for appending, made with mode 0600. It never follows a
// symbolic link and opens nothing but a regular file.
func OpenLog(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open log", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, fmt.Errorf("open log %s: not a regular file", path)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// TailLog returns the last n lines of a log that are not empty, for an error
// message: no control characters, no escape sequences, bounded. A log that
// can't be read has no lines.
func TailLog(path string, n int) []string {
	tail, err := readTail(path, tailBytes)
	if err != nil {
		return nil
	}
	var lines []string
	for line := range bytes.Lines(tail) {
		if clean := cleanLine(line); clean != "" {
			lines = append(lines, clean)
		}
	}
	return lines[max(0, len(lines)-n):]
}

// TrimLog cuts a log that is longer than limit bytes down to its last half
// limit, in place: the program that writes it appends.
func TrimLog(path string, limit int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= limit {
		return err
	}
	tail := make([]byte, limit/2)
	if _, err := f.ReadAt(tail, info.Size()-limit/2); err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	_, err = f.Write(tail)
	return err
}

func readTail(path string, limit int64) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-limit), limit))
}

func cleanLine(line []byte) string {
	escape := regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|[@-_])")
	text := escape.ReplaceAllString(strings.ToValidUTF8(string(line), "�"), "")
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text))
	if runes := []rune(text); len(runes) > tailLineRunes {
		return string(runes[:tailLineRunes]) + "…"
	}
	return text
}
