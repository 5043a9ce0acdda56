//! Stories over real sockets with the release programs: one file per story.
mod killed_anywhere;
mod two_binaries;
