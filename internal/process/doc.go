// Package process starts the programs that bield runs beside its daemon (VMMs,
// virtiofsd), finds them again after the daemon was restarted, and ends them.
//
// It promises that
//   - a program that was started is never host uid 0, has no capability (its
//     bounding set is empty and no_new_privs is set; in a user namespace of its
//     own it has those of that namespace), leads a session of its own, dumps no
//     core and inherits no descriptor but the ones it was given;
//   - Start returns only after the program was executed: a program that is
//     missing or may not be run is an error of Start;
//   - programs outlive the daemon: nothing ties them to it, and an ID in a
//     record is enough to Adopt them;
//   - a signal never reaches a process that merely got the same number: every
//     one goes through a pidfd;
//   - what a program leaves in its process group ends with it.
//
// # The launcher
//
// Go's SysProcAttr knows no no_new_privs, no bounding set and no limits, and
// fork without exec is no option in Go. Start therefore executes the daemon's
// own binary again under the name "bield-launch". That process reads its orders
// from a pipe, gives up everything, and executes the program. A second pipe
// that closes on exec carries its error back. main, and TestMain of whoever
// tests with real processes, call MaybeLaunch before anything else.
//
// # File handles
//
// virtiofsd holds a descriptor for each inode that its guest has cached unless
// it can use file handles, and open_by_handle_at(2) needs CAP_DAC_READ_SEARCH in
// the first user namespace (in one's own, kernel 6.18 still opens only
// directories: measured). That capability would let a guest read what the
// share's owner cannot. With Command.FileHandles the launcher stays as the
// program's parent and answers that system call for it, and the one that makes
// handles, over seccomp user notification. The program has no capability; the
// launcher has that one, as the program's user, not in effect but for the call
// that turns a handle into an O_PATH descriptor.
//
// A handle is only a number, and whoever knows how may write down that of any
// file of the file system. So the kernel's own are not taken: the launcher makes
// handles, for descriptors that the program holds, and puts a MAC behind each
// (handle_seal.go), with a key that it makes at its start and keeps in its
// undumpable memory. It opens only what bears its seal, on the mount that it was
// made for, and only the file that was born when that one was: file systems use
// numbers again. The file is opened again with the user's own rights as they are
// then, plain files and folders alone. Files that belong to the user are opened
// for reading whatever their mode: their owner could change it.
//
// Thus a program that a guest has taken over
//   - can't open a file of which it never held a descriptor: neither what lies
//     outside its folder, nor a later file of the same number (where the file
//     system keeps no times of birth, its generations have to tell those apart);
//   - can open again, as long as it exists, what it held once: also after it was
//     moved out of the folder or the folder above was closed. As it could have
//     kept the descriptor, that is nothing new;
//   - can do so for writing where the user may write and the mount allows it,
//     however the descriptor was opened, as it could by /proc/self/fd;
//   - can have handles made for descriptors from elsewhere, if somebody gives it
//     any: it may do with those what the user may, with a handle or without;
//   - can use the system calls of another architecture, which are not answered:
//     they make handles without seal, and open none.
//
// The seal takes 24 of a handle's 128 bytes. Where that is too much (some network
// file systems), and on kernels without mount ids (before 5.8), files are said to
// have no handle. Before 6.8 mount ids are used again after an unmount; the type of
// the file system is sealed in, too, there.
//
// The kernel hands over no O_PATH descriptors that way, so one that reads stands
// in, and what can't be opened for reading (symbolic links, sockets, another's
// secret file) is said to have no handle: the program keeps a descriptor then.
//
// With an IDMap, where one server reads files of many users, the capability is
// in effect for reading too, but only for files whose owner lies in the map;
// nothing is opened for writing.
package process
