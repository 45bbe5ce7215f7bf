package image

import (
	"context"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// namespaced prepares a program that runs as the image's root: uid 0 of a user
// namespace whose ids are base to base+count on the host. It is PID 1 of a
// process namespace, so that killing it ends all that it started. It is to be
// run by runTied, which ends it with this process.
func namespaced(ctx context.Context, base, count uint32, name string, args ...string) *exec.Cmd {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(base), Size: int(count)}}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
		Setpgid:                    true,
		Pdeathsig:                  syscall.SIGKILL,
	}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// runTied runs a namespaced program until its end and calls started, which may
// be nil, when it runs or could not be started. The death signal comes when the
// thread ends that forked (PR_SET_PDEATHSIG(2const)): the program keeps that
// thread to itself, as another goroutine may take it and let it die.
func runTied(cmd *exec.Cmd, started func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	if started != nil {
		started()
	}
	if err != nil {
		return err
	}
	return cmd.Wait()
}
