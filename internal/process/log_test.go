package process

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
)

func TestTailLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := "first\n\n\x1b[31mred\x1b[0m and\x07 bell\r\n\xff\xfe bytes\n" + strings.Repeat("x", 1000)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := TailLog(path, 3)
	want := []string{"red and bell", "� bytes", strings.Repeat("x", tailLineRunes) + "…"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if lines := TailLog(path+"missing", 3); lines != nil {
		t.Errorf("%q of a missing log", lines)
	}
}

func TestOpenLogRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, dir, "/dev/null"} {
		if f, err := OpenLog(path); err == nil {
			f.Close()
			t.Errorf("opened %s", path)
		}
	}
}

func TestTrimLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	writer, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for range 100 {
		if _, err := writer.WriteString("0123456789\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := TrimLog(path, 110); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.WriteString("end\n"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != strings.Repeat("0123456789\n", 5)+"end\n" {
		t.Errorf("%q, %v", got, err)
	}
	if err := TrimLog(path, 1000); err != nil {
		t.Error(err)
	}
}

func FuzzCleanLine(f *testing.F) {
	f.Add([]byte("\x1b[1;31mhello\x1b[0m\x00"))
	f.Fuzz(func(t *testing.T, line []byte) {
		got := cleanLine(line)
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) || len([]rune(got)) > tailLineRunes+1 {
			t.Errorf("%q → %q", line, got)
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (a) b) S 1 2 3 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if s, err := parseStat(line); err == nil && s.state == 0 {
			t.Errorf("%q → %+v", line, s)
		}
	})
}

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte("123 (x) R ) 9) S 1 22 33 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n"))
	if want := (stat{'S', 22, 33, 4711}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2", "1 (x) S 1 a 3 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q parsed", bad)
		}
	}
}
