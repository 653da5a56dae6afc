//! The reference documents against the program: every event and every snippet.

use std::path::Path;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// Every variant of the event type stands in its table, by its name on the wire, and nothing else does.
#[test]
fn every_event_is_described() {
    let source = document("crates/virt-maker/src/event.rs");
    let from = source.find("pub enum Event {").unwrap();
    let body = &source[from..from + source[from..].find("\n}").unwrap()];
    let variants = body.lines().filter_map(|line| {
        let line = line.strip_prefix("    ")?;
        let name: String = line.chars().take_while(|character| character.is_alphanumeric()).collect();
        let rest = &line[name.len()..];
        (name.starts_with(char::is_uppercase) && (rest.starts_with(" {") || rest.starts_with('('))).then_some(name)
    });
    let snake = |name: String| {
        let mut text = String::new();
        for character in name.chars() {
            if character.is_uppercase() && !text.is_empty() {
                text.push('_');
            }
            text.extend(character.to_lowercase());
        }
        text
    };
    let mut variants: Vec<_> = variants.map(snake).collect();
    let text = document("docs/events.md");
    let mut described: Vec<_> = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .filter(|name| name != "type")
        .collect();
    variants.sort();
    described.sort();
    assert!(variants.len() > 15, "{variants:?}");
    assert_eq!(variants, described);
}

/// The snippets of a page: the words after the fence, and the text.
fn snippets(page: &str) -> Vec<(String, String)> {
    let blocks = page.split("\n```").skip(1).step_by(2);
    let split = |block: &str| {
        let (words, text) = block.split_once('\n').unwrap_or_default();
        (words.to_owned(), format!("{text}\n"))
    };
    blocks.map(split).filter(|(words, _)| words.starts_with("yaml")).collect()
}

/// A snippet that begins with a comment is the file that it names; `yaml steps` is a list of steps.
#[test]
fn every_snippet_of_the_template_page_loads() {
    let folder = tempfile::tempdir().unwrap();
    let snippets = snippets(&document("docs/templates.md"));
    let (mut files, mut lists, mut templates) = (0, 0, 0);
    for (words, text) in &snippets {
        match text.lines().next().and_then(|line| line.strip_prefix("# ")).filter(|name| name.ends_with(".yml")) {
            Some(name) => {
                std::fs::write(folder.path().join(name), text).unwrap();
                files += 1;
            }
            None => assert_eq!(words, "yaml steps", "a snippet without a name:\n{text}"),
        }
    }
    use virt_maker::host::permit::Permissions;
    let load = |path: &Path| {
        let paths = [path.to_owned()];
        let access = virt_maker::spec::HostAccess {
            cache_dir: folder.path().join("cache"),
            permissions: Permissions { env: ["REGISTRY_TOKEN".to_owned()].into(), ..Permissions::default() },
            certificates: Default::default(),
            homes: Vec::new(),
            env: Default::default(),
            events: virt_maker::event::Events::none(),
            cancel: Default::default(),
        };
        let options = virt_maker::spec::load_options(&[], None, &access);
        let loaded = virt_maker::spec::load_all(&paths, &options);
        loaded.unwrap_or_else(|error| panic!("{}: {:#?}", path.display(), error.diagnostics()))
    };
    for (words, text) in &snippets {
        let path = if words == "yaml steps" {
            lists += 1;
            let steps: String = text.lines().map(|line| format!("    {line}\n")).collect();
            let path = folder.path().join(format!("list-{lists}.yml"));
            let head = "format: 2\nparams: {with_app: true}\nspec:\n  import: {download: {url: x.img}}\n  steps:\n";
            std::fs::write(&path, format!("{head}{steps}")).unwrap();
            path
        } else {
            // Libraries and files that are included are loaded by those that take them in.
            if !text.contains("\nspec:") {
                continue;
            }
            folder.path().join(text.lines().next().unwrap().trim_start_matches("# "))
        };
        assert!(!load(&path).specs.is_empty());
        templates += 1;
    }
    assert!(files >= 8 && lists >= 2 && templates >= 8, "{files} {lists} {templates}");

    let fleet = load(&folder.path().join("fleet.yml"));
    let steps: Vec<_> = fleet.specs.iter().map(|spec| spec.steps.len()).collect();
    assert_eq!(steps, [2, 2, 1], "two sizes of web, one of db");
    let team = load(&folder.path().join("team.yml"));
    assert_eq!(team.specs[0].steps.len(), 5, "one of the base, two for each of two users");
}

/// The same text as in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

mod reference;
mod tour;

pub(crate) fn rows(schema: &serde_json::Value, default: bool) -> String {
    let mut table = String::from(if default {
        "\n| argument | value | default | means |\n|---|---|---|---|\n"
    } else {
        "\n| key | value | means |\n|---|---|---|\n"
    });
    for row in virt_maker::spec::arguments(schema) {
        let name = if row.name.is_empty() { "(the value)".into() } else { format!("`{}`", row.name) };
        let value = match row.default.as_str() {
            "" | "required" => row.default.clone(),
            value => format!("`{value}`"),
        };
        let value = if default { format!(" {} |", cell(&value)) } else { String::new() };
        table.push_str(&format!("| {} | {} |{value} {} |\n", cell(&name), cell(&row.kind), cell(&row.about)));
    }
    table.push('\n');
    table
}

/// Tables are made of the types. To write them anew after a change: `UPDATE_EXPECTED=1 cargo test -p virt-maker-cli --test
/// documents`.
#[test]
fn tables_and_schema_are_those_of_the_types() {
    let page = document("docs/templates.md");
    let mut made = String::new();
    let mut rest = page.as_str();
    while let Some((before, after)) = rest.split_once("<!-- table: ") {
        let (name, after) = after.split_once(" -->").unwrap();
        let (_, after) = after.split_once("<!-- end -->").unwrap();
        let table = match name {
            "keys" => rows(&virt_maker::spec::keys_schema(), false),
            "options" => rows(&virt_maker::spec::options_schema(), false),
            other => panic!("a table `{other}`"),
        };
        made.push_str(&format!("{before}<!-- table: {name} -->\n{table}<!-- end -->"));
        rest = after;
    }
    made.push_str(rest);
    let schema = format!("{}\n", serde_json::to_string_pretty(&virt_maker::spec::schema()).unwrap());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    testkit::expect_file("the tables of the types", &docs.join("templates.md"), &made);
    testkit::expect_file("what `schema` prints", &docs.join("template.schema.json"), &schema);
}

/// What the page on security says of permissions is the table in the code, and the tests that it names are there.
#[test]
fn security_is_as_its_page_says() {
    let page = document("docs/security.md");
    let table: String = virt_maker::host::permit::KINDS
        .iter()
        .map(|kind| format!("| `{}` | {} |\n", kind.form(), kind.about))
        .collect();
    assert!(
        page.contains(&format!("<!-- permissions -->\n\n| permission | allows to |\n|---|---|\n{table}\n")),
        "{table}"
    );

    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    let mut folders = vec![crates];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        // The last column of the tables with three.
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [_, _, tests] = cells[..] else { continue };
        for test in tests.split('`').skip(1).step_by(2).filter(|name| !name.contains(['.', '/', ' '])) {
            let macros = format!("{test},");
            assert!(sources.contains(&format!("fn {test}(")) || sources.contains(&macros), "no test is called {test}");
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}
