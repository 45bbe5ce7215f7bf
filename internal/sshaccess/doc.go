// Package sshaccess is how the host reaches a guest over SSH: key pairs, the
// files that OpenSSH needs, and the handshake that proves a guest usable.
//
// It promises that a guest is only ever spoken to under the host key that was
// made for it on the host: nothing is trusted on first use.
package sshaccess
