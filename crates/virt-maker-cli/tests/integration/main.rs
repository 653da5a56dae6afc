//! The program, tried as its users run it: with real guests on the real engines. One binary, so that it is linked once.

// First, for its macro.
#[macro_use]
mod common;

mod again;
mod ansible;
mod appliance;
mod bad_input;
mod bootstrap_rpm;
mod cache;
mod caches;
mod certificates;
mod config;
mod corpus;
mod crash;
mod docs;
mod documents;
mod engine_vm;
mod engines_agree;
mod errors;
mod every_error;
mod explain;
mod exports;
mod exports_tree;
mod firmware;
mod first_boot;
mod flatten;
mod floors;
mod format;
mod imports;
mod kernels;
mod keys;
mod library;
mod lock;
mod lone_machines;
mod look;
mod machines;
mod network;
mod options;
mod ordinary_user;
mod pages;
mod parallel;
mod permissions;
mod places;
mod privileged;
mod readme;
mod resize;
mod schema;
mod secrets;
mod selinux;
mod shell;
mod shrink;
mod spine;
mod steps;
mod tutorial;
mod waits;
