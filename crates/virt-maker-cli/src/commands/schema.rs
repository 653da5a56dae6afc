//! `virt-maker schema`: the JSON Schema of templates, for editors.

use virt_maker::spec::schema;

use super::print_json;
use crate::error::Failure;

pub fn run() -> Result<(), Failure> {
    print_json(&schema())
}
