// Package witness sees on the host what a guest's attempts to break out have
// brought about, whatever the guest says of it: packets that carry a cookie on
// any interface, what arrives at sockets of its own, whose sockets are
// connected, which files came to lie in a folder.
//
// It promises to hold no more than a bounded amount of what guests send, to
// follow no symbolic link of theirs, and to listen only until it is closed. All
// of it is of the network namespace it is called in.
package witness
