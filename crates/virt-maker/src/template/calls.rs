//! Uses of definitions and of files, and the place that an error is shown at which comes up within one.
//!
//! An error belongs to the text that its author can mend. A value that a use gave is wrong where it was given, and what comes up in
//! a step of the library, whose text no user can change, is shown where that is used. Whatever else is wrong in a definition
//! or a file is wrong there, and the use is a note.

use super::define::Definition;
use super::library::is_library;
use super::node::{Kind, Node};
use crate::diagnostic::{Diagnostic, Note};

/// One use.
#[derive(Debug)]
pub struct Call {
    /// The name of the definition, or the file.
    pub name: String,
    /// Where it stands.
    pub key: Node,
    /// What is given to it.
    arguments: Node,
    /// Whose text the steps are.
    of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Library,
    Template,
    File,
}

impl Call {
    /// A use of a step that is made of others.
    pub(super) fn of_step(definition: &Definition, key: &Node, arguments: &Node) -> Call {
        let of = if is_library(&definition.node.source) { Of::Library } else { Of::Template };
        Call { name: definition.name.clone(), key: key.clone(), arguments: arguments.clone(), of }
    }

    /// A use of the steps of a file; `value` names it.
    pub(super) fn of_file(file: &Node, value: &Node, arguments: &Node) -> Call {
        let name = file.source.path.display().to_string();
        Call { name, key: value.clone(), arguments: arguments.clone(), of: Of::File }
    }

    /// Whether it is a step, and not a file that is taken in.
    pub fn is_step(&self) -> bool {
        self.of != Of::File
    }

    /// Moves an error that came up within to the place that is to blame, or says where this use is.
    pub(crate) fn blame(&self, problem: &mut Diagnostic) {
        let given = given(&self.arguments, problem);
        let Some(at) = given.or((self.of == Of::Library).then_some(&self.key)) else {
            if self.is_step() {
                let message = format!("it is a part of `{}`, which is used here", self.name);
                problem.notes.push(Note { message, position: Some(self.key.position()) });
            }
            return;
        };
        let here = at.diagnostic("");
        // That the parameter is set here is what the error's own place says.
        problem.notes.retain(|note| note.position != here.position);
        let message = match given {
            Some(_) => format!("this is where `{}` uses it", self.name),
            None => format!("the step of `{}` that it is about is here", self.name),
        };
        problem.notes.insert(0, Note { message, position: problem.position.take() });
        (problem.position, problem.source_line) = (here.position, here.source_line);
        for note in here.notes {
            if !problem.notes.contains(&note) {
                problem.notes.push(note);
            }
        }
    }
}

/// The argument that had a part in the value which is wrong.
fn given<'a>(arguments: &'a Node, problem: &Diagnostic) -> Option<&'a Node> {
    let position = Some(arguments.position());
    if !matches!(arguments.kind, Kind::Null) && problem.notes.iter().any(|note| note.position == position) {
        return Some(arguments);
    }
    match &arguments.kind {
        Kind::List(items) => items.iter().find_map(|item| given(item, problem)),
        Kind::Map(members) => members.iter().find_map(|(_, value)| given(value, problem)),
        _ => None,
    }
}
