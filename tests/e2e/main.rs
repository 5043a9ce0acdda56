//! Stories over real sockets with the release programs: one file per story.
mod two_binaries;
