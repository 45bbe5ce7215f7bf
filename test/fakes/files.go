package fakes

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"
	"sync"

	"bield/internal/guestconfig"
)

// share is the guest's end of one share.
type share struct {
	conn    net.Conn
	mu      sync.Mutex
	request *json.Encoder
	reply   *json.Decoder
}

// connectShares connects to every virtiofsd, as QEMU does before anything else.
func connectShares(sockets map[string]string) (map[string]*share, error) {
	shares := map[string]*share{}
	for tag, socket := range sockets {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return nil, fmt.Errorf("-chardev socket,path=%s: Failed to connect to '%s': %w", socket, socket, err)
		}
		shares[tag] = &share{conn: conn, request: json.NewEncoder(conn), reply: json.NewDecoder(conn)}
	}
	return shares, nil
}

// do asks virtiofsd. Without one it never returns: so does the real guest.
func (s *share) do(op, file string, data []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.request.Encode(fileRequest{Op: op, Path: file, Data: data})
	var reply fileReply
	if err == nil {
		err = s.reply.Decode(&reply)
	}
	if err != nil {
		forever()
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	return reply.Data, nil
}

// mounts are the shares of a guest by where they are mounted.
type mounts map[string]*share

// mount gives each share of the configuration its device, and looks into it.
func mount(c guestconfig.Config, devices map[string]*share) (mounts, error) {
	m := mounts{}
	for _, s := range c.Shares {
		device, ok := devices[s.Tag]
		if !ok {
			return nil, fmt.Errorf("mount %s: virtio-fs: tag <%s> not found", s.MountPoint, s.Tag)
		}
		if _, err := device.do("stat", ".", nil); err != nil {
			return nil, fmt.Errorf("mount %s: %w", s.MountPoint, err)
		}
		m[s.MountPoint] = device
	}
	return m, nil
}

// do works on a file by its path in the guest.
func (m mounts) do(op, file string, data []byte) ([]byte, error) {
	for dir := path.Dir(file); dir != "/" && dir != "."; dir = path.Dir(dir) {
		if s, ok := m[dir]; ok {
			return s.do(op, strings.TrimPrefix(file, dir+"/"), data)
		}
	}
	return nil, fmt.Errorf("%s: no such file in any share", file)
}
