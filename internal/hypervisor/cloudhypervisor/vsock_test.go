package cloudhypervisor

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// answers is a connection on which another's bytes wait.
type answers struct {
	io.Reader
	asked bytes.Buffer
}

func (a *answers) Write(b []byte) (int, error) { return a.asked.Write(b) }

func TestConnectVsock(t *testing.T) {
	for text, want := range map[string]string{
		"OK 1073741824\nhello": "", "": "does not listen", "OK 107": "does not listen", "NO\n": "not OK",
		"OK 99999999999999999999\n": "",
	} {
		a := &answers{Reader: strings.NewReader(text)}
		err := connectVsock(a, 1011)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", text, err)
		}
		if a.asked.String() != "CONNECT 1011\n" {
			t.Errorf("asked %q", a.asked.String())
		}
		if rest, _ := io.ReadAll(a.Reader); text == "OK 1073741824\nhello" && string(rest) != "hello" {
			t.Errorf("%q is left of the guest's own", rest)
		}
	}
}

// FuzzVsock: a hostile answer is short work, and prints.
func FuzzVsock(f *testing.F) {
	f.Add([]byte("OK 1073741824\n"))
	f.Add([]byte("\x1b[2J"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		err := connectVsock(&answers{Reader: r}, 1)
		if read := len(data) - r.Len(); read > 20 {
			t.Fatalf("read %d bytes", read)
		}
		if err != nil && strings.ContainsFunc(err.Error(), func(c rune) bool { return c < ' ' || c == 0x7f }) {
			t.Fatalf("prints %q", err)
		}
	})
}
