//! Aliases, tags and candidates as the API shows them.
use leeway_protocol::ids::Version;

use crate::io::web::resource::names::{AliasMove, AliasRow, Aliases, CandidateSummary, Tagged};
use crate::registry::{AliasName, ModelLine, book, mlflow};

/// The aliases of a line: those that decide and those that people gave, with one history.
pub(in crate::io::web) fn aliases(line: &ModelLine) -> Aliases {
    let decides = |alias: &str| alias.parse().is_ok_and(|name: AliasName| name.deciding().is_some());
    let text = |version: &Option<Version>| version.as_ref().map(Version::to_string);
    let moved = line.aliases.history().iter().map(|c| AliasMove {
        at: c.at,
        alias: c.alias.as_str().to_owned(),
        from: text(&c.from),
        to: text(&c.to),
        by: c.by.clone().unwrap_or_else(|| "controller".to_owned()),
        rollout: c.rollout.as_ref().map(ToString::to_string),
        reason: c.reason.clone(),
    });
    let named = line.book.names.history().map(|c| AliasMove {
        at: c.at,
        alias: c.name.to_string(),
        from: text(&c.from),
        to: text(&c.to),
        by: c.by.clone(),
        rollout: None,
        reason: c.reason.clone(),
    });
    let mut history: Vec<AliasMove> = moved.chain(named).collect();
    history.sort_by_key(|change| change.at);
    let pointers = mlflow::entry::pointers(line).into_iter();
    let rows = pointers.map(|(alias, version)| AliasRow { decides: decides(&alias), alias, version: version.to_string() });
    Aliases { line: line.line.to_string(), aliases: rows.collect(), history, older: line.aliases.older() + line.book.names.older() }
}

/// The tags of a line or of one of its versions.
pub(in crate::io::web) fn tagged(line: &ModelLine, version: Option<&Version>) -> Tagged {
    let tags = match version {
        Some(version) => line.book.note(version).map(|note| note.tags.to_map()).unwrap_or_default(),
        None => line.book.tags.to_map(),
    };
    Tagged { line: line.line.to_string(), version: version.map(Version::to_string), tags }
}

/// What nobody signed yet, the newest first.
pub(in crate::io::web) fn candidates(line: &ModelLine) -> Vec<CandidateSummary> {
    let mut all: Vec<_> = line.book.candidates.iter().collect();
    all.sort_by_key(|(_, candidate)| std::cmp::Reverse((candidate.number, candidate.at)));
    let of = |(version, candidate): (&Version, &book::Candidate)| CandidateSummary {
        version: version.to_string(),
        source: candidate.note.source.clone(),
        by: candidate.by.clone(),
        registered_at: candidate.at,
        tags: candidate.note.tags.to_map(),
        sentence: book::unsigned(&line.line, version, &candidate.note.source),
    };
    all.into_iter().map(of).collect()
}
