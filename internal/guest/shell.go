package guest

import (
	"fmt"
	"os"
	"path/filepath"

	"bield/internal/guestconfig"
)

// shellPath is what every shell and every command over SSH begins with.
func shellPath(u guestconfig.User) string {
	return u.Home + "/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// shellDefaults sees that every shell has a language and a runtime directory,
// and that zsh never asks a new user its questions.
func (t tree) shellDefaults(u guestconfig.User) error {
	text := environment(u)
	if err := t.write("/etc/profile.d/bield.sh", text, 0o644, owner{}); err != nil {
		return err
	}
	zshenv, err := t.read("/etc/zsh/zshenv")
	if err != nil {
		return fmt.Errorf("shell defaults: %w", err)
	}
	if err := t.write("/etc/zsh/zshenv", zshenv+"\n"+text, 0o644, owner{}); err != nil {
		return err
	}
	return t.removeNewUserModule()
}

// removeNewUserModule: zsh starts its dialogue for new users from this module
// alone, and says that administrators may remove it (zshmodules(1)).
func (t tree) removeNewUserModule() error {
	modules, err := filepath.Glob(t.at("/usr/lib/*/zsh/*/zsh/newuser.so"))
	for _, m := range modules {
		err = firstError(err, os.Remove(m))
	}
	return err
}

func environment(u guestconfig.User) string {
	return fmt.Sprintf(`# bield's defaults for every shell.
: "${LANG:=C.UTF-8}"
export LANG
if [ -O %[1]s ]; then
	: "${XDG_RUNTIME_DIR:=%[1]s}"
	export XDG_RUNTIME_DIR
fi
`, runtimeDir(u))
}

// runtimeDir is the user's XDG_RUNTIME_DIR.
func runtimeDir(u guestconfig.User) string { return fmt.Sprintf("/run/user/%d", u.UID) }

// zshrc is what a home begins with.
const zshrc = `# Written by bield for a home without a .zshrc. It is forgotten at shutdown:
# share your own to keep it.
typeset -U path
path=(~/.local/bin $path)
export EDITOR=${EDITOR:-vim}

HISTFILE=~/.zsh_history
HISTSIZE=50000
SAVEHIST=50000
setopt append_history inc_append_history hist_ignore_dups hist_ignore_space
setopt interactive_comments auto_cd no_beep

PROMPT='%B%F{green}%n@%m%f %F{blue}%~%f%b%(?.. %F{red}%?%f) %# '
(( $+commands[dircolors] )) && eval "$(dircolors -b)"
alias ls='ls --color=auto' ll='ls -lh --color=auto' la='ls -lah --color=auto'
alias grep='grep --color=auto' diff='diff --color=auto'

bindkey -e
bindkey '^[[A' up-line-or-search
bindkey '^[[B' down-line-or-search
bindkey '^[[H' beginning-of-line
bindkey '^[[F' end-of-line
bindkey '^[[3~' delete-char
bindkey '^[[1;5C' forward-word
bindkey '^[[1;5D' backward-word

# Completion is loaded by the first tab: it takes longer than all the rest.
zstyle ':completion:*' menu select
zstyle ':completion:*' matcher-list '' 'm:{a-z}={A-Z}'
zstyle ':completion:*' list-colors "${(s.:.)LS_COLORS}"
_bield_first_tab() {
	bindkey '^I' expand-or-complete
	zle -D _bield_first_tab
	autoload -Uz compinit && compinit -u
	zle expand-or-complete
}
zle -N _bield_first_tab
bindkey '^I' _bield_first_tab
`
