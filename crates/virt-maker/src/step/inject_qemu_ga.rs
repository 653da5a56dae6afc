//! `inject_qemu_ga`: see [`super::support::inject`].

use schemars::JsonSchema;

use super::StepKind;
use super::support::inject::Inject;
use crate::template::{Need, arguments};

pub(super) static KIND: StepKind = StepKind {
    name: "inject_qemu_ga",
    about: "Puts the QEMU guest agent into a Windows guest, with the host's virt-customize.",
    arguments: arguments::<Source>,
    example: "inject_qemu_ga: osinfo",
    needs: &[Need::new("virt-customize", "guestfs-tools")],
    version: 1,
    network: false,
    parse: |node| Inject::parse(node, "inject_qemu_ga", "--inject-qemu-ga"),
};

/// The path of an ISO on the host, or `osinfo` for what libosinfo knows.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "only its schema is used")]
struct Source(String);
