//! Stories over real sockets with the release programs: one file per story.
mod any_trainer;
mod bad_input;
mod every_verb;
mod friday_evening;
mod hostile_models;
mod identity;
mod killed_anywhere;
mod mlflow_client;
mod mosquitto;
mod mosquitto_tls;
mod other_tuf;
mod same_numbers;
mod sketches;
mod stream_resumes;
mod supply_chain;
mod two_binaries;
