//! Stories over real sockets with the release programs: one file per story.
mod any_trainer;
mod bad_input;
mod datasets;
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
mod stream_resumes;
mod supply_chain;
mod two_binaries;
mod what_ran_and_why;
