package guest

import (
	"errors"

	"golang.org/x/sys/unix"
)

func isErrno(err error, wanted ...unix.Errno) bool {
	for _, w := range wanted {
		if errors.Is(err, w) {
			return true
		}
	}
	return false
}
