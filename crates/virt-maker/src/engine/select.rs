//! stand-in
use super::Engine;
use std::path::PathBuf;
#[derive(Debug, Clone, Copy)]
pub enum EngineChoice {
    Auto,
}
pub struct Selector;
pub struct Candidate {
    pub engine: Box<dyn Engine>,
    pub reason: String,
}
impl Selector {
    pub fn new(_: EngineChoice, _: PathBuf, _: PathBuf) -> Self {
        Selector
    }
    pub fn candidates(&mut self) -> crate::error::Result<&[Candidate]> {
        Ok(&[])
    }
}
