package process

import (
	"errors"
	"fmt"
)

// Lives says whether the process of an ID still runs. It only looks.
func Lives(id ID) (bool, error) {
	boot, err := bootID()
	if err != nil {
		return false, fmt.Errorf("look for process %d: %w", id.PID, err)
	}
	if id.PID <= 0 || id.BootID != boot {
		return false, nil
	}
	pidfd, err := openPidfd(id.PID)
	if err == nil {
		defer pidfd.Close()
		err = verify(pidfd, id)
	}
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for process %d: %w", id.PID, err)
	}
	return true, nil
}
