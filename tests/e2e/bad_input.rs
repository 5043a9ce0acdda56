//! Bad input, as people, programs, disks and clocks really give it: each gets an error that names the thing and the remedy, nothing
//! is lost, and nobody panics.
use leeway_tests::site::Told;

mod api;
mod clock;
mod commands;
mod disk;
mod sockets;

/// What a command must have ended with.
///
/// # Panics
/// With what it said, if it ended with another code or did not say every one of `says` (in any letter case).
fn expect(name: &str, told: &Told, code: i32, says: &[&str]) {
    let said = format!("{}{}", told.out, told.err);
    assert_eq!(told.code, code, "{name}: {said}");
    let lower = said.to_lowercase();
    for words in says {
        assert!(lower.contains(&words.to_lowercase()), "{name} does not say {words:?}:\n{said}");
    }
    assert!(!lower.contains("panicked"), "{name}: {said}");
}
