//! The fuzzer at the entrance `tuf_metadata`; what is checked there is in the file of that name.
#![no_main]
#[path = "../entrances/tuf_metadata.rs"]
mod entrance;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entrance::enter(bytes));
