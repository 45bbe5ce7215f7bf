package guestlink

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	magic = "bield-link/1 "
	// nonceDigits is the length of a nonce as hexadecimal digits.
	nonceDigits = 32
	// scanLine is the longest line the handshake looks at; longer ones are
	// junk and dropped piece by piece.
	scanLine = 512
	// maxScan bounds what a guest reads in search of a hello. More than any
	// stale session can have left in the port's buffers.
	maxScan = 4 << 20

	helloFirst = 50 * time.Millisecond
	helloLast  = 500 * time.Millisecond
)

// errNoHello means that the port holds something that is not a host.
var errNoHello = errors.New("no hello of a host found in what the port delivered")

// Dial begins a session from the host over conn and returns when the guest has
// answered, which may be long after the VM started: ctx bounds it. Dial owns
// conn from here on and has closed it when it returns an error.
func Dial(ctx context.Context, conn io.ReadWriteCloser) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	r := bufio.NewReaderSize(conn, scanLine)
	err := greet(conn, r)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("guest link: greet the guest: %w", err)
	}
	return newSession(conn, r, hostSide)
}

// Serve begins a session from the guest: it waits on port for a host's hello,
// for as long as ctx allows. Serve owns port from here on and has closed it
// when it returns an error; the caller opens the port again for the next one.
func Serve(ctx context.Context, port io.ReadWriteCloser) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { _ = port.Close() })
	r := bufio.NewReaderSize(port, scanLine)
	err := answer(port, r)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = port.Close()
		return nil, fmt.Errorf("guest link: answer the host: %w", err)
	}
	return newSession(port, r, guestSide)
}

func greet(conn io.ReadWriteCloser, r *bufio.Reader) error {
	nonce := newNonce()
	welcomed := make(chan struct{})
	sent := make(chan error, 1)
	go func() { sent <- repeatHello(conn, nonce, welcomed) }()
	err := awaitWelcome(r, nonce)
	close(welcomed)
	if err != nil {
		_ = conn.Close() // a write that blocks would keep the sender
	}
	// The last hello must be out before the go: what follows it is yamux.
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	if err != nil {
		return err
	}
	return writeLine(conn, "go", nonce)
}

func newNonce() string {
	b := make([]byte, nonceDigits/2)
	_, _ = rand.Read(b) // never returns an error, see crypto/rand
	return hex.EncodeToString(b)
}

// repeatHello ends whatever frame a dead session left open at the guest, then
// says hello until welcomed is closed: a guest that was just resetting its end
// drops what it had not read.
func repeatHello(w io.Writer, nonce string, welcomed <-chan struct{}) error {
	if _, err := w.Write(bytes.Repeat([]byte{'\n'}, maxFrame+headerSize)); err != nil {
		return err
	}
	pause := helloFirst
	for {
		if err := writeLine(w, "hello", nonce); err != nil {
			return err
		}
		select {
		case <-welcomed:
			return nil
		case <-time.After(pause):
			pause = min(2*pause, helloLast)
		}
	}
}

// writeLine begins with a newline of its own, so that the line is whole
// whatever stood before it.
func writeLine(w io.Writer, verb, nonce string) error {
	_, err := io.WriteString(w, "\n"+magic+verb+" "+nonce+"\n")
	return err
}

func awaitWelcome(r *bufio.Reader, nonce string) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return unexpectedEOF(err)
		}
		if verb, got := parseGreeting(line); verb == "welcome" && got == nonce {
			return nil
		}
	}
}

// answer welcomes every new nonce once and returns at the go of the last one.
func answer(port io.Writer, r *bufio.Reader) error {
	welcomed := ""
	for scanned := 0; scanned < maxScan; {
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return unexpectedEOF(err)
		}
		scanned += len(line)
		switch verb, nonce := parseGreeting(line); {
		case verb == "go" && nonce == welcomed:
			return nil
		case verb == "hello" && nonce != welcomed:
			if err := writeLine(port, "welcome", nonce); err != nil {
				return err
			}
			welcomed, scanned = nonce, 0
		}
	}
	return errNoHello
}

// parseGreeting takes a handshake line apart; verb is "" for anything else.
func parseGreeting(line []byte) (verb, nonce string) {
	rest, ok := bytes.CutPrefix(line, []byte(magic))
	if !ok {
		return "", ""
	}
	v, n, ok := bytes.Cut(rest, []byte(" "))
	n, ended := bytes.CutSuffix(n, []byte("\n"))
	if !ok || !ended || len(n) != nonceDigits {
		return "", ""
	}
	if _, err := hex.DecodeString(string(n)); err != nil {
		return "", ""
	}
	return string(v), string(n)
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
