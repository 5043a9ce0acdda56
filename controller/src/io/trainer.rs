//! (Being written by the lead: trait Trainer {submit, poll, collect} with the built-in and the command implementation.)
