//! The fuzzer at the entrance `certificate`; what is checked there is in the file of that name.
#![no_main]
#[path = "../entrances/certificate.rs"]
mod entrance;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entrance::enter(bytes));
