//! Delegations as repositories of other people may have them: overlapping, nested, in circles, with other keys.
use super::*;

/// Targets that delegate as repositories of other people may: not terminating, overlapping, by hash prefix, in a circle.
fn foreign(roles: &[(&str, bool, Option<&str>)], key: &crate::trust::keyring::PublicKey) -> Option<Delegations> {
    let role = |(name, terminating, paths): &(&str, bool, Option<&str>)| DelegatedRole {
        name: (*name).to_owned(),
        keys: RoleKeys { keyids: vec![key.key_id()], threshold: 1 },
        terminating: *terminating,
        paths: paths.map(|paths| vec![paths.to_owned()]),
        path_hash_prefixes: paths.is_none().then(|| vec![Digest::of(b"x").hex()[..2].to_owned()]),
    };
    let keys = BTreeMap::from([(key.key_id(), Key::of(key))]);
    Some(Delegations { keys, roles: roles.iter().map(role).collect(), rest: serde_json::Map::new() })
}

#[test]
fn delegations_are_asked_in_order_and_terminating_ones_end_the_search() {
    let world = World::empty();
    let key = stranger();
    let build = |roles: &[(&str, bool, Option<&str>)], lists: &[(&str, &str)], inner: &[(&str, &str, bool)]| {
        let mut files = world.state.files().clone();
        let top = edited::<Targets>(&files["1.targets.json"], &[world.key("targets-1"), world.key("targets-2")], |targets| {
            targets.header.version = 2;
            targets.delegations = foreign(roles, &key.public());
        });
        let mut listed = vec![("targets".to_owned(), 2, top)];
        let names = lists.iter().map(|(name, _)| *name).chain(inner.iter().map(|(from, _, _)| *from));
        for name in names.collect::<BTreeSet<_>>() {
            let mut targets = Targets::new(1, now().plus_secs(DAY_SECS));
            for (_, path) in lists.iter().filter(|(role, _)| *role == name) {
                targets.targets.insert((*path).to_owned(), metadata::TargetMeta::new(Digest::of(name.as_bytes()), 1, None));
            }
            let children = inner.iter().filter(|(from, _, _)| *from == name).map(|(_, to, terminating)| (*to, *terminating, Some("*")));
            let children: Vec<_> = children.collect();
            targets.delegations = if children.is_empty() { None } else { foreign(&children, &key.public()) };
            listed.push((name.to_owned(), 1, metadata::sign(&targets, &[&key]).unwrap()));
        }
        for (name, version, bytes) in &listed {
            files.insert(versioned_name(name, *version), bytes.clone());
        }
        world.resign(&mut files, |snapshot| {
            for (name, version, bytes) in &listed {
                snapshot.meta.insert(format!("{name}.json"), FileMeta::of(*version, bytes));
            }
        });
        refresh(&world.keys.image_root, Stored::default(), &files, now()).unwrap().0
    };
    let role_of = |client: &Client, path: &str| client.target(path).unwrap().map(|target| target.role);
    // The first that lists it wins; one that does not list it lets the next one speak, unless it is terminating.
    let client = build(&[("a", false, Some("*")), ("b", false, Some("*"))], &[("a", "y"), ("b", "x"), ("b", "y")], &[]);
    assert_eq!((role_of(&client, "y"), role_of(&client, "x")), (Some("a".into()), Some("b".into())));
    let client = build(&[("a", true, Some("*")), ("b", false, Some("*"))], &[("a", "y"), ("b", "x")], &[]);
    assert_eq!((role_of(&client, "y"), role_of(&client, "x")), (Some("a".into()), None));
    // By prefix of the path's digest.
    let client = build(&[("a", false, None)], &[("a", "x"), ("a", "y")], &[]);
    assert_eq!((role_of(&client, "x"), role_of(&client, "y")), (Some("a".into()), None));
    // In a circle, and deeper.
    let client = build(&[("a", false, Some("*"))], &[("c", "x")], &[("a", "b", false), ("b", "a", false), ("b", "c", false)]);
    assert_eq!((role_of(&client, "x"), role_of(&client, "y")), (Some("c".into()), None));
    // A terminating role further in ends the search for those that wait further out, too.
    for (terminating, expected) in [(false, Some("b".to_owned())), (true, None)] {
        let client = build(&[("a", false, Some("*")), ("b", false, Some("*"))], &[("b", "x"), ("c", "y")], &[("a", "c", terminating)]);
        assert_eq!(role_of(&client, "x"), expected);
    }
}

#[test]
fn one_file_under_two_delegators_is_judged_by_the_one_that_leads_to_it() {
    let world = World::empty();
    let (key, other) = (stranger(), spare(0xe1));
    let top = edited::<Targets>(&world.state.files()["1.targets.json"], &[world.key("targets-1"), world.key("targets-2")], |targets| {
        targets.header.version = 2;
        targets.delegations = foreign(&[("a", true, Some("a*")), ("b", true, Some("b*"))], &key.public());
    });
    let delegating = |to: &crate::trust::keyring::SigningKey| {
        let mut targets = Targets::new(1, now().plus_secs(DAY_SECS));
        targets.delegations = foreign(&[("c", true, Some("*"))], &to.public());
        metadata::sign(&targets, &[&key]).unwrap()
    };
    let mut c = Targets::new(1, now().plus_secs(DAY_SECS));
    for path in ["ax", "bx"] {
        c.targets.insert(path.to_owned(), metadata::TargetMeta::new(Digest::of(b"c"), 1, None));
    }
    let listed =
        [("targets", 2, top), ("a", 1, delegating(&key)), ("b", 1, delegating(&other)), ("c", 1, metadata::sign(&c, &[&key]).unwrap())];
    let mut files = world.state.files().clone();
    world.resign(&mut files, |snapshot| {
        for (name, version, bytes) in &listed {
            snapshot.meta.insert(format!("{name}.json"), FileMeta::of(*version, bytes));
        }
    });
    files.extend(listed.into_iter().map(|(name, version, bytes)| (versioned_name(name, version), bytes)));
    let mut client = world.client();
    client.only_for("ax");
    client.only_for("bx");
    client.run_over(&files).unwrap();
    assert_eq!(client.target("ax").unwrap().unwrap().role, "c");
    assert!(matches!(client.target("bx"), Err(TufError::Unsigned { .. })), "b names another key for c");
}
