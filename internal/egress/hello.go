package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Numbers of TLS (RFC 8446, sections 4, 5.1 and B.3; RFC 6066, section 3).
const (
	recordHeader    = 5
	recordHandshake = 22
	maxRecord       = 1 << 14
	clientHello     = 1
	handshakeHeader = 4
	extServerName   = 0
	extECH          = 0xfe0d // RFC 9849
	extESNI         = 0xffce // its first drafts
	hostName        = 0
	// maxHello and maxHelloRecords bound what is read before a decision.
	maxHello        = 1 << 16
	maxHelloRecords = 32
)

var errHello = errors.New("it is no ClientHello of TLS")

// hello is what a ClientHello says about its server.
type hello struct {
	// name is the server's, clean, or "" where the client gives none.
	name string
	// hidden says that another name may be in it, encrypted.
	hidden bool
}

// parseHello reads a ClientHello from the start of a connection, that may be cut
// into several records. need is the number of bytes from the start that it takes
// to go on, or 0 when all of it was there.
func parseHello(b []byte) (h hello, need int, err error) {
	var message []byte
	at := 0
	for range maxHelloRecords {
		if len(b) < at+recordHeader {
			return h, at + recordHeader, nil
		}
		length := int(binary.BigEndian.Uint16(b[at+3:]))
		if b[at] != recordHandshake || b[at+1] != 3 || length == 0 || length > maxRecord {
			return h, 0, errHello
		}
		end := at + recordHeader + length
		if len(b) < end {
			return h, end, nil
		}
		message = append(message, b[at+recordHeader:end]...)
		at = end
		whole, err := wholeHello(message)
		if err != nil || whole != nil {
			if err == nil {
				h, err = readHello(whole)
			}
			return h, 0, err
		}
	}
	return h, 0, errHello
}

// wholeHello is the body of a ClientHello message, or nil while some is missing.
func wholeHello(message []byte) ([]byte, error) {
	if len(message) > 0 && message[0] != clientHello {
		return nil, errHello
	}
	if len(message) < handshakeHeader {
		return nil, nil
	}
	length := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
	switch {
	case length > maxHello || len(message) > handshakeHeader+length:
		return nil, errHello
	case length == 0:
		return nil, errHello
	case len(message) < handshakeHeader+length:
		return nil, nil
	}
	return message[handshakeHeader:], nil
}

// readHello reads the body: version, random, session, suites, compressions and
// extensions (RFC 8446, section 4.1.2).
func readHello(body []byte) (h hello, err error) {
	r := &bytesReader{b: body}
	if version := r.take(2); r.bad || version[0] != 3 {
		return h, errHello
	}
	r.take(32)
	r.block(1)
	r.block(2)
	r.block(1)
	if !r.bad && len(r.b) == 0 {
		return h, nil // without extensions, as old clients are
	}
	extensions := &bytesReader{b: r.block(2)}
	if r.bad || len(r.b) != 0 {
		return h, errHello
	}
	seen := map[uint16]bool{}
	for len(extensions.b) > 0 {
		kind, data := extensions.number(), extensions.block(2)
		if extensions.bad || seen[kind] {
			return h, errHello
		}
		seen[kind] = true
		switch kind {
		case extServerName:
			if h.name, err = readServerName(data); err != nil {
				return h, err
			}
		case extECH, extESNI:
			h.hidden = true
		}
	}
	return h, nil
}

// readServerName takes the one name of a list; two would be understood
// differently by different servers.
func readServerName(data []byte) (string, error) {
	outer := &bytesReader{b: data}
	list := &bytesReader{b: outer.block(2)}
	kind := list.take(1)
	name := list.block(2)
	if outer.bad || list.bad || len(outer.b) > 0 || len(list.b) > 0 || kind[0] != hostName {
		return "", errHello
	}
	clean, err := cleanName(string(name))
	if err != nil || len(clean) != len(name) {
		return "", fmt.Errorf("its server name %q %w", forPrint(string(name)), errName)
	}
	return clean, nil
}

// bytesReader takes bytes from the front, and is bad once there were too few.
type bytesReader struct {
	b   []byte
	bad bool
}

func (r *bytesReader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, min(n, 2))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *bytesReader) number() uint16 { return binary.BigEndian.Uint16(r.take(2)) }

// block takes a length of that many bytes, and as many bytes as it says.
func (r *bytesReader) block(size int) []byte {
	n := 0
	for _, b := range r.take(size) {
		n = n<<8 | int(b)
	}
	if r.bad {
		return nil
	}
	return r.take(n)
}
