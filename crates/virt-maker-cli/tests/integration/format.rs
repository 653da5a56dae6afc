//! `format: 2` and templates without it: what each means, and that `migrate` keeps it.

use std::fs;

use crate::common::Bench;
use serde_json::{Value, json};
use testkit::{TinyOptions, tiny_guest};

on_chroot_and_vm!(a_script_ends_at_the_first_failure);

fn nowhere() -> Bench {
    Bench::new("/nonexistent".into())
}

/// What `render` says of a template: the steps of its images, and its notes, each on a line with its place.
fn steps(bench: &Bench, text: &str, more: &[&str]) -> (Vec<Value>, String) {
    fs::write(bench.path("t.yml"), text).unwrap();
    let ran = bench.run(&[&["render", "--json", "t.yml"], more].concat()).exits(0);
    let printed: Value = serde_json::from_str(&ran.stdout).unwrap();
    let specs = printed["specs"].as_array().unwrap().iter().map(|spec| spec["spec"]["steps"].clone()).collect();
    let note = |note: &Value| {
        let (place, text) = (&note["position"], |name: &str| note[name].as_str().unwrap_or_default().to_owned());
        let file = place["file"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        format!("{file}:{}:{}: {} ({})\n", place["line"], place["column"], text("message"), text("hint"))
    };
    (specs, printed["notes"].as_array().into_iter().flatten().map(note).collect())
}

const NUMBERS: &str = "\
params: {v: '1.10', w: 1.20, sha: 1234e5, long: 12345678901234567890, n: 4, ratio: 0.5, list: ['1.10', 7e10]}
matrix: {py: [3.9, 3.10]}
spec:
  import: {disk: {path: x.img}}
  steps:
    - run: 'pip{{ py }} {{ v }} {{ w }} {{ sha }} {{ long }} {{ list | join(\",\") }} {{ n + 1 }} {{ ratio * 2 }}'
    - copy: {dest: /v, content: '{{ w }}'}
    - copy: {dest: /w, content: '[1]'}
    - hostname: 7e10
";

/// Case: `v: '1.10'`, `-p v=1.20`, `matrix: {py: [3.9, 3.10]}`, `sha: 1234e5` arrived as 1.1, 1.2, 3.1, 123400000.0.
#[test]
fn text_that_looks_like_a_number_stays_text() {
    let bench = nowhere();
    let (specs, notes) = steps(&bench, &format!("format: 2\n{NUMBERS}"), &["-p", "w=1.30"]);
    for (spec, py) in specs.iter().zip(["3.9", "3.10"]) {
        let said = format!("pip{py} 1.10 1.30 1234e5 12345678901234567890 1.10,7e10 5 1.0");
        let expected = json!([
            {"run": said}, {"copy": {"dest": "/v", "content": "1.30"}}, {"copy": {"dest": "/w", "content": "[1]"}},
            {"hostname": "7e10"},
        ]);
        assert_eq!(*spec, expected);
    }
    assert_eq!(notes, "", "there is nothing to warn of");
    let (specs, _) = steps(&bench, &format!("format: 2\n{NUMBERS}"), &["-p", "py=3.10"]);
    assert_eq!(specs.len(), 1);

    // Without it they mean what they meant, and each is told with its place.
    let (specs, notes) = steps(&bench, NUMBERS, &["-p", "w=1.30"]);
    assert_eq!(specs[1][0]["run"], "pip3.1 1.1 1.3 123400000.0 12345678901234567000.0 1.1,70000000000.0 5 1.0");
    let hint = "with `format: 2` at the file's begin it arrives as it was written";
    for told in [
        "t.yml:1:13: `1.10` arrives as `1.1`",
        "-p w:1:1: `1.30` arrives as `1.3`",
        "t.yml:1:35: `1234e5` arrives as `123400000.0`",
        "t.yml:2:20: `3.10` arrives as `3.1`",
        "`7e10` arrives as `70000000000.0`",
    ] {
        assert!(notes.contains(&format!("{told} ({hint})")), "no {told} in\n{notes}");
    }
    assert_eq!(notes.matches("`1.10` arrives").count(), 2, "once for each place:\n{notes}");
}

/// Case: everything between `${#x}` and a later `#}` was dropped in silence.
#[test]
fn braces_of_a_shell_are_no_comments() {
    let bench = nowhere();
    let text = "\
spec:
  import: {disk: {path: x.img}}
  steps:
    - run: |
        #!/bin/sh
        echo one ${#x}
        rm -rf /srv/old # {{ 'expr' }} {# a comment #}
        echo two # an end #}
";
    let (specs, notes) = steps(&bench, &format!("format: 2\n{text}"), &[]);
    let whole = "#!/bin/sh\necho one ${#x}\nrm -rf /srv/old # expr \necho two # an end #}\n";
    assert_eq!((specs[0][0]["run"].as_str().unwrap(), &*notes), (whole, ""));
    let (specs, notes) = steps(&bench, text, &[]);
    assert_eq!(specs[0][0]["run"], "#!/bin/sh\necho one $\necho two # an end #}\n");
    for words in [
        "t.yml:6:9: ",
        "Jinja takes this for a comment and leaves it out: `${#x} rm -rf /srv/old # {{ 'expr' }} {# a comment #}`",
        "with `format: 2` at the file's begin it is text; or put it between {% raw %} and {% endraw %}",
    ] {
        assert!(notes.contains(words), "no {words} in\n{notes}");
    }
    // What Jinja cannot read says how to write it.
    for (script, shown) in [
        ("docker ps --format '{{.Names}}'", "{% raw %}{{.Names}}{% endraw %}"),
        ("date +{%m}", "{% raw %}{%m}{% endraw %}"),
        ("echo ${{ x y }}", "{% raw %}${{ x y }}{% endraw %}"),
    ] {
        for format in ["", "format: 2\n"] {
            let text = format!("{format}spec:\n  import: {{disk: {{path: x.img}}}}\n  steps:\n    - run: {script:?}\n");
            fs::write(bench.path("t.yml"), text).unwrap();
            let ran = bench.run(&["render", "t.yml"]).exits(1);
            assert!(ran.stderr.contains(shown), "no {shown} in\n{}", ran.stderr);
        }
    }
}

/// Case: `when: tls` with `no`, `off`, `False` was true.
#[test]
fn text_that_says_no_is_never_true() {
    let bench = nowhere();
    let text = |when: &str, value: &str| {
        format!(
            "format: 2\nparams: {{tls: {value}, other: yes}}\nspec:\n  import: {{disk: {{path: x.img}}}}\n  steps: [{{run: x, when: {when}}}]\n"
        )
    };
    let holds = |when: &str, value: &str, more: &[&str]| {
        let (specs, _) = steps(&bench, &text(when, value), more);
        specs[0].as_array().unwrap().len() == 1
    };
    for no in ["no", "'no'", "Off", "'False'", "false", "''", "n", "0"] {
        for (when, expected) in [
            ("tls", false),
            ("'{{ tls }}'", false),
            ("not tls", true),
            ("other and not tls", true),
            ("other and tls", false),
            ("tls or other", true),
            ("(tls)", false),
        ] {
            assert_eq!(holds(when, no, &[]), expected, "{when} with {no}");
        }
    }
    for yes in ["yes", "'on'", "true", "web", "1"] {
        assert!(holds("tls", yes, &[]) && !holds("not tls", yes, &[]), "{yes}");
    }
    for no in ["tls=no", "tls=off", "tls=False", "tls=false", "tls=0", "tls="] {
        assert!(!holds("tls", "true", &["-p", no]) && holds("not tls", "true", &["-p", no]), "{no}");
    }
    for (when, expected) in
        [("no", false), ("'no'", false), ("off", false), ("False", false), ("yes", true), ("on", true)]
    {
        assert_eq!(holds(when, "true", &[]), expected, "{when}");
    }
    assert!(holds("tls == 'no'", "'no'", &[]), "a text is compared as it is");
}

/// A file that comes in has its own format.
#[test]
fn each_file_has_its_own_format() {
    let bench = nowhere();
    for (name, text) in [
        ("old.yml", "params: {v: '1.10'}\nspec: {import: {disk: {path: x.img}}, steps: [{run: 'old {{ v }}'}]}\n"),
        ("inc.yml", "params: {v: '1.10'}\nsteps: [{run: 'inc {{ v }}'}]\n"),
        ("own.yml", "define: {own: {params: {v: {type: any, default: '1.10'}}, steps: [{run: 'own {{ v }}'}]}}\n"),
    ] {
        fs::write(bench.path(name), text).unwrap();
        fs::write(bench.path(&format!("new-{name}")), format!("format: 2\n{text}")).unwrap();
    }
    let text = |new: &str| {
        format!(
            "from: {new}old.yml\nuse: {new}own.yml\nparams: {{w: '2.10'}}\nspec: {{steps: [{{include: {new}inc.yml}}, {{own: }}, {{run: 'here {{{{ w }}}}'}}]}}\n"
        )
    };
    let run = |head: &str, new: &str| {
        let (specs, _) = steps(&bench, &format!("{head}{}", text(new)), &[]);
        specs[0].as_array().unwrap().iter().map(|step| step["run"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(run("format: 2\n", ""), ["old 1.1", "inc 1.1", "own 1.1", "here 2.10"]);
    assert_eq!(run("", "new-"), ["old 1.10", "inc 1.10", "own 1.10", "here 2.1"]);
}

/// A replacement that is written as sed's.
#[test]
fn groups_of_another_program_are_told() {
    let bench = nowhere();
    let text = "spec:\n  import: {disk: {path: x.img}}\n  steps:\n    \
                - edit: {path: /b, match: '(a)', replace: 'x\\1'}\n";
    fs::write(bench.path("t.yml"), text).unwrap();
    let ran = bench.run(&["validate", "t.yml"]).exits(0);
    for words in ["`\\1` is text in a replacement, and no group", "a group is `${1}`", "t.yml:4:"] {
        assert!(ran.stderr.contains(words), "no {words} in\n{}", ran.stderr);
    }
}

/// Merge keys of YAML.
#[test]
fn merge_keys_bring_the_members_of_others() {
    let bench = nowhere();
    let text = "\
format: 2
params:
  base: &base {dest: /a, chmod: '0600'}
spec:
  import: {disk: {path: x.img}}
  steps:
    - copy: {<<: *base, content: x}
    - copy:
        dest: /b
        content: y
        <<: [*base, {chown: bin, dest: /never}]
";
    let (specs, _) = steps(&bench, text, &[]);
    assert_eq!(
        specs[0],
        json!([
            {"copy": {"content": "x", "dest": "/a", "chmod": "0600"}},
            {"copy": {"dest": "/b", "content": "y", "chmod": "0600", "chown": "bin"}},
        ])
    );
}

/// The text of a template with these steps on the bench's base.
fn template(bench: &Bench, head: &str, steps: &str) -> String {
    format!("{head}spec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n{steps}", bench.base.display())
}

/// Case: `cp x y` fails, `echo done` succeeds, and the layer was sealed.
fn a_script_ends_at_the_first_failure(engine: &str) {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let path = bench.path("t.yml");
    let build = |head: &str, steps: &str| {
        fs::write(&path, template(&bench, head, steps)).unwrap();
        bench.build(engine, &path, &[])
    };
    let both = "    - run: |\n        cp /nowhere /x\n        echo done\n";
    let ran = build("format: 2\n", both).exits(4);
    assert!(ran.of("output").iter().all(|event| event["text"] != "done\n"), "{}", ran.stdout);
    let piped = "    - run: |\n        if (set -o pipefail) 2>/dev/null; then false | true; else false; fi\n        echo done\n";
    build("format: 2\n", piped).exits(4);

    // The older format, a shell that was asked for, and a script's own first line go on; the first two are one layer.
    let old = build("", both).exits(0).sealed();
    assert_eq!(old.len(), 1, "the step that failed unnoticed");
    assert_eq!(build("format: 2\ndefaults: {shell: /bin/sh}\n", both).exits(0).sealed().len(), 0);
    let beside = "    - shell: /bin/sh\n      run: |\n        cp /nowhere /x\n        echo done\n";
    assert_eq!(build("format: 2\n", beside).exits(0).sealed().len(), 0);
    let own = "    - run: |\n        #!/bin/sh\n        cp /nowhere /x\n        echo done\n";
    build("format: 2\n", own).exits(0);
    // A shell with options.
    build("format: 2\ndefaults: {shell: /bin/sh -e -u}\n", "    - run: |\n        echo $NOTHING\n        true\n")
        .exits(4);

    // What a shell says of a line has the number that the line has in the text, whatever runs it.
    let second = "    - run: |\n        true\n        /no/such/program\n";
    for head in ["", "format: 2\n", "format: 2\ndefaults: {shell: /bin/sh -eu}\n"] {
        let ran = build(head, second).exits(4);
        let output = ran.of("output");
        let said: String = output.iter().filter_map(|event| event["text"].as_str()).collect();
        assert!(said.contains("script: 2: ") || said.contains("script: line 2: "), "{head}{said}");
    }
    // Where nothing has a number, it is said how to find the command.
    let silent = "    - run: |\n        true\n        false\n        true\n";
    let said = build("format: 2\n", silent).exits(4).stderr;
    assert!(said.contains("begin the script with `set -x`"), "{said}");
    let said = build("format: 2\n", second).exits(4).stderr;
    assert!(!said.contains("set -x"), "{said}");
}

/// What the older format passes over in silence is told, once for a file, with its place.
#[test]
fn a_script_that_goes_on_after_a_failure_is_told() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let notes = |head: &str, steps: &str| {
        fs::write(bench.path("t.yml"), template(&bench, head, steps)).unwrap();
        bench.run(&["validate", "t.yml"]).exits(0).stderr
    };
    let two = "    - run: cp x y; echo done\n    - run: |\n        a\n        b\n";
    let told = notes("", two);
    let all = "a command that fails does not end this script, nor those in line 7: only the last one of each counts";
    assert!(told.contains(all) && told.contains("t.yml:5:12"), "{told}");
    let many = "    - run: a; b\n".repeat(20);
    let lines = "in lines 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17 and 7 more:";
    assert!(notes("", &many).contains(lines), "{}", notes("", &many));
    // Two files have a note each, and what to do stands with the first. A plan says the same.
    fs::write(bench.path("u.yml"), template(&bench, "", two)).unwrap();
    let both = bench.run(&["validate", "t.yml", "u.yml"]).exits(0).stderr;
    let plan = bench.run(&["plan", "t.yml", "u.yml"]).exits(0).stderr;
    for said in [&both, &plan] {
        let count = |words: &str| said.matches(words).count();
        assert_eq!((count("does not end this script"), count("begin the script with `set -e`")), (2, 1), "{said}");
    }
    let told = notes("", "    - run: echo one\n    - run: cp x y; echo done\n");
    let once = "a command that fails does not end this script: only its last one counts";
    let hint = "begin the script with `set -e`, or the file with `format: 2`, where each script ends at the first failure (`virt-maker migrate` takes a file there)";
    assert_eq!(told.matches(once).count(), 1, "{told}");
    assert!(told.contains("t.yml:6:12") && told.contains(hint), "{told}");
    assert_eq!(notes("format: 2\n", two), "");
    assert_eq!(notes("", "    - run: |\n        set -e\n        a\n        b\n"), "");
}

/// Case: `shell: /bin/bash` switched off, in silence, what `format: 2` promises.
#[test]
fn a_shell_that_goes_on_after_a_failure_is_told() {
    let bench = nowhere();
    let notes = |head: &str, step: &str| {
        let text = format!("{head}spec:\n  import: {{disk: {{path: x.img}}}}\n  steps:\n    - {step}\n");
        steps(&bench, &text, &[]).1
    };
    let note = "with this shell, a command that fails does not end a script";
    let hint = "say `shell: /bin/bash -euo pipefail`; `/bin/sh` alone goes on without this note";
    let told = |place: &str| format!("t.yml:{place}: {note} ({hint})\n");
    assert_eq!(notes("format: 2\n", "{run: a, shell: /bin/bash}"), told("5:23"));
    assert_eq!(notes("format: 2\ndefaults: {shell: /bin/bash}\n", "run: a"), told("2:19"));
    assert_eq!(notes("format: 2\nparams: {sh: /bin/bash}\n", "{run: a, shell: '{{ sh }} -u'}"), told("6:23"));
    for silent in ["/bin/sh", "/bin/bash -euo pipefail", "/bin/bash -o errexit", "/usr/bin/python3"] {
        assert_eq!(notes("format: 2\n", &format!("{{run: a, shell: {silent}}}")), "", "{silent}");
    }
    assert_eq!(notes("", "{run: a, shell: /bin/bash}"), "", "the older format promises nothing");
}

/// `migrate` keeps the key of each layer.
#[test]
fn a_migrated_template_has_the_same_layers() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    fs::write(bench.path("motd"), "hello\n").unwrap();
    let steps = "    # Goes on after a failure, today as before.
    - run: |
        cp {{ v }} y
        echo {{ n + 1 }} ${#x} {# and #} done
    - firstboot: touch /done
    - copy: {dest: /etc/motd, content: motd}
    - run: '#!/bin/sh -e'
    - {run: 'echo {{ list[1] }}', when: flag}
    - install: \"['vim', '{{ v }}']\"
    - copy: {dest: /etc/version, content: '{{ v }}', chmod: '0600'}
";
    let head = "params: {v: '1.10', n: '4', list: \"['a', 'b']\", flag: 'True'}\n";
    fs::write(bench.path("t.yml"), template(&bench, head, steps)).unwrap();
    let keys = || {
        let ran = bench.run(&["plan", "--json", "t.yml"]).exits(0);
        let plan: Value = serde_json::from_str(&ran.stdout).unwrap();
        let mut keys = Vec::new();
        collect(&plan, &mut keys);
        assert!(keys.len() >= 8, "{plan}");
        keys
    };
    let old = keys();
    let ran = bench.run(&["migrate", "--write", "t.yml"]).exits(0);
    let text = fs::read_to_string(bench.path("t.yml")).unwrap();
    assert!(text.starts_with("format: 2\ndefaults: {shell: /bin/sh}\nparams: {v: 1.1, n: 4,"), "{text}");
    assert!(text.contains("    # Goes on after a failure, today as before.\n    - run: |\n"), "{text}");
    assert!(ran.stderr.contains("t.yml:1: `1.10` arrived as 1.1"), "{}", ran.stderr);
    assert_eq!(old, keys(), "{text}");
    bench.run(&["migrate", "t.yml"]).exits(1);
}

/// What `migrate` cannot tell from the text alone it says.
#[test]
fn what_a_migration_cannot_tell_is_a_note() {
    let bench = nowhere();
    let old = "\
from: base.yml
params: {v: '1.10', list: \"[{{ v }}\"}
spec:
  steps:
    - run: 'echo ${#x} # {# a #} b'
    - run: \"echo \\
        ${# x \\
        #} y\"
    - copy: {dest: /a, content: '{{ v }}'}
  export:
    raw:
      path: a.img
      post_script: >-
        echo done
";
    let new = "\
format: 2
from: base.yml
params: {v: 1.1, list: \"[{{ v }}\"}
spec:
  steps:
    - shell: /bin/sh
      run: 'echo $ b'
    - shell: /bin/sh
      run: \"echo \\
        ${# x \\
        #} y\"
    - copy: {dest: /a, content: '{{ v }}'}
  export:
    raw:
      path: a.img
      post_script: >-
        echo done
";
    fs::write(bench.path("base.yml"), "spec: {import: {disk: {path: x.img}}}\n").unwrap();
    fs::write(bench.path("t.yml"), old).unwrap();
    let ran = bench.run(&["migrate", "t.yml"]).exits(0);
    assert_eq!(ran.stdout, new);
    for note in [
        "t.yml:2: `1.10` arrived as 1.1, and still does; say '1.10' where that was meant",
        "t.yml:2: the older format made a list or a mapping of this text: write one",
        "t.yml:5: `{#x} # {# a #}` was taken for a comment, and is gone; with `format: 2` it may stand here",
        "t.yml:6: Jinja took a part of this text for a comment; remove that part",
        "t.yml:9: where this `content` is the name of a file, say `source`",
        "t.yml:14: this script went on after a command that failed, and ends there now: if that was meant to be, write it below \
         `|` with `#!/bin/sh` as its first line",
        "t.yml:5: scripts stay as they were by `shell: /bin/sh`: only their last command counts; without it, a script ends at \
         the first command that fails",
    ] {
        assert!(ran.stderr.contains(&format!("note: {note}\n")), "no {note} in\n{}", ran.stderr);
    }
}

/// Case: `migrate` ended well, with a result that does not load.
#[test]
fn what_comes_out_of_a_migration_loads_or_is_an_error() {
    let bench = nowhere();
    let path = bench.path("t.yml");
    let migrate = |name: &str, text: &str, more: &[&str]| {
        fs::write(bench.path(name), text).unwrap();
        bench.run(&[&["migrate", name], more].concat())
    };
    // The older file names no base; what there is of it is printed all the same.
    let ran = migrate("old.vbp", "@run\nls\n", &[]).exits(1);
    assert!(ran.stdout.contains("- run: "), "{}", ran.stdout);
    for words in ["error: ", "old.vbp (migrated):", "note: old.vbp: what is printed does not load yet"] {
        assert!(ran.stderr.contains(words), "no {words} in\n{}", ran.stderr);
    }
    let ran = migrate("old.vbp", "@virt-builder debian-12 --size 6G\n@reboot now\n", &[]).exits(0);
    assert!(ran.stdout.contains("local_run"), "{}", ran.stdout);
    // It did not load before: it is written, and that is said.
    let wrong = "spec: {import: {disk: {path: x.img}}, steps: [{runn: x}]}\n";
    let ran = migrate("t.yml", wrong, &["--write"]).exits(1);
    assert!(ran.stderr.contains("t.yml: it does not load now, and did not before"), "{}", ran.stderr);
    assert!(fs::read_to_string(&path).unwrap().starts_with("format: 2\n"));
    // A file that comes in by others is none by itself; one with a parameter is given it.
    migrate("t.yml", "steps: [{run: x}]\n", &[]).exits(0);
    let needs = "spec: {import: {disk: {path: x.img}}, steps: [{run: '{{ word }}'}]}\n";
    migrate("t.yml", needs, &[]).exits(1);
    let ran = migrate("t.yml", needs, &["--write", "-p", "word=a"]).exits(0);
    assert_eq!(ran.stdout, "wrote t.yml: it has format 2 now\n");
}

fn collect(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| match value.as_str() {
            Some(text) if name == "key" => keys.push(text.to_owned()),
            _ => collect(value, keys),
        }),
        Value::Array(items) => items.iter().for_each(|item| collect(item, keys)),
        _ => {}
    }
}
