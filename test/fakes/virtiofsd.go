package fakes

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fileRequest and fileReply are what a fake guest and a fake virtiofsd say to
// each other, one JSON object a line.
type fileRequest struct {
	Op   string `json:"op"` // "stat", "read", "write"
	Path string `json:"path"`
	Data []byte `json:"data,omitempty"`
}

type fileReply struct {
	Error string `json:"error,omitempty"`
	Data  []byte `json:"data,omitempty"`
}

// runVirtiofsd serves its working directory to one client, as the real one
// does, and ends with it.
func runVirtiofsd(_ string, p Plan, args []string) error {
	if slices.Contains(args, "--version") {
		fmt.Println("virtiofsd 1.13.2")
		return nil
	}
	if !slices.Contains(args, "--fd=3") || !slices.Contains(args, "--shared-dir=.") {
		return fmt.Errorf("no listener or no folder on the command line: %q", args)
	}
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return fmt.Errorf("--fd=3: %w", err)
	}
	if s := p.Shares[tagOf(listener)]; s.Crash {
		return errors.New(s.Says)
	}
	root, err := os.OpenRoot(".")
	if err != nil {
		return fmt.Errorf("open the shared folder: %w", err)
	}
	conn, err := listener.Accept()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	_ = listener.Close()
	serveFiles(conn, root, slices.Contains(args, "--readonly"))
	return nil
}

// tagOf takes the tag out of the socket's name, share-TAG.sock.
func tagOf(listener net.Listener) string {
	name := filepath.Base(listener.Addr().String())
	return strings.TrimSuffix(strings.TrimPrefix(name, "share-"), ".sock")
}

func serveFiles(conn net.Conn, root *os.Root, readOnly bool) {
	requests, replies := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var request fileRequest
		if requests.Decode(&request) != nil {
			return
		}
		data, err := serveFile(root, readOnly, request)
		reply := fileReply{Data: data}
		if err != nil {
			reply.Error = err.Error()
		}
		if replies.Encode(reply) != nil {
			return
		}
	}
}

func serveFile(root *os.Root, readOnly bool, r fileRequest) ([]byte, error) {
	switch r.Op {
	case "stat":
		_, err := root.Stat(r.Path)
		return nil, err
	case "read":
		return root.ReadFile(r.Path)
	case "write":
		if readOnly {
			return nil, errors.New("Read-only file system") //nolint:staticcheck // as a guest's libc says it
		}
		return nil, root.WriteFile(r.Path, r.Data, 0o644)
	default:
		return nil, fmt.Errorf("%s: not supported", r.Op)
	}
}
