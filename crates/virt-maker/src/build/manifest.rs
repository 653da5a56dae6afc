//! What a manifest says of the layers of a spec. A manifest goes where the image goes, so it holds no password.
//!
//! Hidden are parameters whose names say that they are secret, those whose values a step takes as a password
//! ([`crate::step::Step::confidential`]), and these values wherever else they stand, such as in the line that says what a step does.

use serde_json::{Value, json};

use super::Build;
use crate::host::url;
use crate::plan::{PlanNode, SpecId};
use crate::spec::Spec;

/// What stands in the place of what is hidden.
const HIDDEN: &str = "***";
/// A value of fewer bytes is hidden where it is a parameter, and nowhere else: it would be found by chance.
const LEAST: usize = 4;
/// A name of which one of these is a part says that its value is secret.
const SECRET: [&str; 9] =
    ["password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "apikey", "privatekey"];

/// What is known of the layers of a spec, for its manifests.
pub(super) fn layers(build: &Build<'_>, id: SpecId) -> Value {
    let spec = id.of(build.specs);
    let path = build.plan.layers(id);
    let layer =
        |node: &&PlanNode| json!({ "key": node.info.key, "kind": node.info.kind, "summary": node.info.summary });
    let layers: Vec<Value> = path.iter().map(layer).collect();
    let base = path.first().map(|node| &node.material.inputs);
    let inputs = base.into_iter().flatten().map(|input| json!({ "name": input.name, "sha256": input.digest }));
    let mut document = json!({
        "version": 1,
        "tool": format!("virt-maker {}", env!("CARGO_PKG_VERSION")),
        "template": spec.template.file_name().map(|name| name.to_string_lossy().into_owned()),
        "matrix": spec.matrix,
        "parameters": spec.parameters,
        "base": inputs.collect::<Vec<_>>(),
        "layers": layers,
    });
    conceal(&mut document, spec);
    url::hide_in(&mut document["parameters"]);
    document
}

fn conceal(document: &mut Value, spec: &Spec) {
    let mut values: Vec<String> = spec.every_step().flat_map(|step| step.runner.confidential()).collect();
    for (name, value) in &spec.matrix {
        values.extend(is_secret(name).then(|| value.clone()));
    }
    for (name, value) in &spec.parameters {
        collect(name, value, false, &mut values);
    }
    values.retain(|value| !value.is_empty());
    // The longest first: one may be a part of another.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values.dedup();
    for field in ["matrix", "parameters", "layers"] {
        hide(&mut document[field], &values);
    }
}

/// The texts of all values whose name, or that of what they are a part of, says that they are secret.
fn collect(name: &str, value: &Value, secret: bool, found: &mut Vec<String>) {
    let secret = secret || is_secret(name);
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| collect(name, value, secret, found)),
        Value::Array(list) => list.iter().for_each(|value| collect("", value, secret, found)),
        Value::String(text) if secret => found.push(text.clone()),
        Value::Number(number) if secret => found.push(number.to_string()),
        _ => {}
    }
}

fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let part = |part: &str| part.eq_ignore_ascii_case("pass") || part.eq_ignore_ascii_case("pw");
    SECRET.iter().any(|word| plain.contains(word)) || name.split(['_', '-', '.']).any(part)
}

fn hide(value: &mut Value, secrets: &[String]) {
    match value {
        Value::String(text) if secrets.contains(text) => *text = HIDDEN.into(),
        Value::String(text) => {
            for secret in secrets.iter().filter(|secret| secret.len() >= LEAST) {
                if text.contains(secret.as_str()) {
                    *text = text.replace(secret.as_str(), HIDDEN);
                }
            }
        }
        Value::Number(number) if secrets.contains(&number.to_string()) => *value = HIDDEN.into(),
        Value::Array(list) => list.iter_mut().for_each(|value| hide(value, secrets)),
        Value::Object(members) => members.values_mut().for_each(|value| hide(value, secrets)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_secret() {
        for name in [
            "password",
            "root_password",
            "DB_PASS",
            "api-key.apiKey",
            "GITHUB_TOKEN",
            "my_secret",
            "pw",
            "ssh_private_key",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["passenger", "compass", "hostname", "user", "key", ""] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn what_is_secret_is_hidden_wherever_it_stands() {
        let parameters =
            json!({"db": {"password": "hunter22", "port": 5432}, "pin_pass": 12, "motd": "no hunter22 here", "n": 12});
        let mut values = Vec::new();
        collect("", &parameters, false, &mut values);
        assert_eq!(values, ["hunter22", "12"]);
        let mut document = json!([parameters, ["run: echo hunter22 12", "12"]]);
        hide(&mut document, &values);
        let expected = json!([
            {"db": {"password": "***", "port": 5432}, "pin_pass": "***", "motd": "no *** here", "n": "***"},
            ["run: echo *** 12", "***"]
        ]);
        assert_eq!(document, expected);
    }
}
