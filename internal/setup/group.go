package setup

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"strings"
)

// Group is the group whose members use bield without sudo.
const Group = "bield"

// EnsureGroup makes the group Group where the host has none; made says that it
// did. Nobody becomes a member: that is a person's decision.
func EnsureGroup(ctx context.Context) (made bool, err error) {
	_, err = user.LookupGroup(Group)
	var unknown user.UnknownGroupError
	if !errors.As(err, &unknown) {
		return false, err
	}
	out, err := exec.CommandContext(ctx, "groupadd", "--system", Group).CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("make the group %s: %w: %s", Group, err, strings.TrimSpace(string(out)))
	}
	return true, nil
}
