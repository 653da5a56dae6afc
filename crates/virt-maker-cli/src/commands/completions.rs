//! `virt-maker completions`: what a shell needs to complete arguments, made of the arguments themselves.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::{Shell as Form, generate};

use crate::arguments::{Arguments, Shell};
use crate::error::Failure;

/// Names of layers, where one is wanted: tags, keys, templates and their steps, as `virt-maker names` says them, and of steps
/// alone behind `--force-from`. Bash breaks words at
/// colons, so what is typed is taken from the line, and what stands before the last colon is left out again.
const BASH: &str = r#"
_virt_maker_with_names() {
    _virt_maker "$@"
    local cur=${COMP_WORDS[COMP_CWORD]} line
    if [[ -n ${COMP_LINE-} ]]; then
        line=${COMP_LINE:0:COMP_POINT}
        cur=${line##*[[:space:]]}
    fi
    [[ $cur == -* ]] && return
    local what=()
    case ${COMP_WORDS[1]-} in
        log | ls | cat | cp | diff | mount | shell | run | tag) ;;
        cache) [[ ${COMP_WORDS[2]-} == pin || ${COMP_WORDS[2]-} == unpin ]] || return ;;
        build | test | plan)
            [[ ${COMP_WORDS[COMP_CWORD - 1]} == --force-from || ${COMP_WORDS[COMP_CWORD - 1]} == --refresh ]] || return
            what=(--steps)
            ;;
        *) return ;;
    esac
    local before="" name
    [[ $cur == *:* ]] && before=${cur%:*}:
    COMPREPLY=()
    while IFS= read -r name; do
        [[ $name == "$cur"* ]] && COMPREPLY+=("${name#"$before"}")
    done < <(virt-maker names "${what[@]}" 2>/dev/null)
}
"#;
const ZSH: &str = r#"_virt_maker_names() {
    local -a names
    names=(${(f)"$(virt-maker names 2>/dev/null)"})
    compadd -a names
    _files
}

_virt_maker_steps() {
    local -a names
    names=(${(f)"$(virt-maker names --steps 2>/dev/null)"})
    compadd -a names
}

_virt-maker() {"#;
const FISH: &str = r#"complete -c virt-maker -n "__fish_seen_subcommand_from log ls cat cp diff mount shell run tag pin unpin" -a "(virt-maker names 2>/dev/null)"
complete -c virt-maker -n "__fish_seen_subcommand_from build test plan" -l force-from -x -a "(virt-maker names --steps 2>/dev/null)"
complete -c virt-maker -n "__fish_seen_subcommand_from build test plan" -l refresh -x -a "(virt-maker names --steps 2>/dev/null)"
"#;

pub fn run(shell: Shell) -> Result<(), Failure> {
    let form = match shell {
        Shell::Bash => Form::Bash,
        Shell::Zsh => Form::Zsh,
        Shell::Fish => Form::Fish,
    };
    let mut text = Vec::new();
    // For bash, clap_complete 4.6 names the branches of a program with a hyphen in two ways, and completes nothing after
    // its first word. So it gets a name without one, and the one place that names the program is put right.
    let name = if matches!(shell, Shell::Bash) { "virt_maker" } else { "virt-maker" };
    generate(form, &mut Arguments::command(), name, &mut text);
    let text = String::from_utf8_lossy(&text).replace("-o default virt_maker\n", "-o default virt-maker\n");
    let text = match shell {
        Shell::Bash => text.replace("complete -F _virt_maker ", "complete -F _virt_maker_with_names ") + BASH,
        Shell::Zsh => {
            // What stands for a layer or a step; each is a word of its own in the descriptions.
            let is_name = |line: &str| {
                line.starts_with("':layer -- ")
                    || line.starts_with("':what -- ")
                    || line.starts_with("':one -- ")
                    || line.starts_with("':two -- ")
                    || line.starts_with("':source -- ")
                    || line.starts_with("'*::layers -- ")
            };
            let line = |line: &str| match (is_name(line), line.contains(":STEP:_default'")) {
                (true, _) => line.replace("_default' ", "_virt_maker_names' "),
                (_, true) => line.replace(":STEP:_default' ", ":STEP:_virt_maker_steps' "),
                _ => line.to_owned(),
            };
            let lines: Vec<String> = text.lines().map(line).collect();
            lines.join("\n").replacen("_virt-maker() {", ZSH, 1) + "\n"
        }
        Shell::Fish => text + FISH,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
