//! The library from outside: its public interface, with real servers, programs and guests. One binary, so that it is linked once.

mod bootstrap;
mod download;
mod embedding;
mod engine_libguestfs;
mod export;
mod runners;
