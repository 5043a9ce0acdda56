//! Tables for the agent: whole lives in virtual time, over a disk that loses what was not synced.
mod clocks;
mod crashes;
mod disk;
mod installs;
mod renewals;
mod repo;
mod rot;
mod talk;
mod windows;
mod world;
