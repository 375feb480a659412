"""The scripts that shells run when Tab is pressed after ``pyvmm``. click inserts the names.

Unlike click's own scripts, these complete words with ``:``, ``=`` or ``,``, and can be installed as files.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

BASH: Final = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete $1)
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain) COMPREPLY+=("$value"); [[ $value == *= ]] && compopt -o nospace ;;
        esac
    done
    return 0
}
%(complete_func)s_setup() {
    complete -o nosort -F %(complete_func)s %(prog_name)s
}
%(complete_func)s_setup;
"""

# Three lines for each completion: its type, its text, its help or "_". The shell itself completes a path after the last
# : or =. If compinit loads the file as a function, the first Tab runs it.
ZSH: Final = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local type key help
    local -a response described words_only keys
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s)}")
    for type key help in ${response}; do
        case $type in
            dir) compset -P '*[:=]'; _files -/ ;;
            file) compset -P '*[:=]'; _files ;;
            plain)
                if [[ $help != _ ]]; then described+=("${key//:/\\\\:}:$help")
                elif [[ $key == *= ]]; then keys+=("$key")
                else words_only+=("$key")
                fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#words_only )) && compadd -U -V unsorted -a words_only
    (( $#keys )) && compadd -U -V unsorted -S '' -a keys
    return 0
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

# One line for each completion: type, comma, text, and optionally a tab and the help. Paths: as for zsh.
FISH: Final = """\
function %(complete_func)s;
    set -l token (commandline -t);
    set -l before (string match -r '^.*[:=]' -- $token);
    set -l path (string replace -r '^.*[:=]' '' -- $token);
    for completion in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \\
            COMP_CWORD=$token %(prog_name)s);
        set -l metadata (string split -m 1 "," -- $completion);
        switch $metadata[1];
            case dir;
                printf '%%s\\n' "$before"(__fish_complete_directories $path);
            case file;
                printf '%%s\\n' "$before"(__fish_complete_path $path);
            case plain;
                echo $metadata[2];
        end;
    end;
end;

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)";
"""
