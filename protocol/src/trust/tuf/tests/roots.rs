//! The way from an old root to the newest one, and the ways that are none.
use super::*;

/// Five roots, each with other root keys than the one before, each signed by two old and two new ones.
fn five_roots(world: &World) -> (Files, Vec<Vec<u8>>) {
    let share = |generation: u8, n: u8| spare(0x40 + generation * 4 + n);
    let mut files = world.state.files().clone();
    let mut roots = vec![world.keys.image_root.clone()];
    for generation in 2..=5 {
        let previous = claims::<Root>(roots.last().unwrap());
        let new: Vec<_> = (0..3).map(|n| share(generation, n)).collect();
        let old: Vec<_> = match generation {
            2 => vec![world.key("root-1").clone(), world.key("root-2").clone()],
            _ => vec![share(generation - 1, 0), share(generation - 1, 1)],
        };
        let public: Vec<_> = new.iter().map(|key| key.public()).collect();
        let expires = if generation < 5 { now() } else { now().plus_secs(DAY_SECS) };
        let builder = RootBuilder::after(&previous, expires).role("root", &public, 2);
        roots.push(builder.sign(&[&old[0], &old[1], &new[1], &new[2]]).unwrap());
        files.insert(format!("{generation}.root.json"), roots.last().unwrap().clone());
    }
    (files, roots)
}

#[test]
fn roots_are_followed_one_by_one_through_expired_ones_and_the_newest_is_where_the_next_refresh_starts() {
    let world = World::new();
    let (files, roots) = five_roots(&world);
    let (client, stored) = refresh(&roots[0], Stored::default(), &files, now()).unwrap();
    assert_eq!(client.versions().root, 5);
    assert_eq!(stored.file("root.json"), Some(roots[4].as_slice()));
    let again = asked_for(Client::new(&roots[0], stored.clone(), now()).unwrap(), &files);
    assert_eq!(again.first().unwrap(), "6.root.json");
    // A factory root that is newer than the stored one wins; a damaged stored one is left aside.
    let mut old = Stored::default();
    old.insert("root.json", roots[1].clone());
    assert_eq!(Client::new(&roots[4], old, now()).unwrap().versions().root, 5);
    let mut damaged = stored;
    damaged.insert("root.json", b"{".to_vec());
    assert_eq!(refresh(&roots[0], damaged, &files, now()).unwrap().0.versions().root, 5);
}

#[test]
fn a_root_chain_with_a_gap_or_one_threshold_only_is_not_followed() {
    let world = World::new();
    let (files, roots) = five_roots(&world);
    // A hop is missing: the chain ends before it, at a root that has expired.
    let mut gap = files.clone();
    gap.remove("3.root.json");
    assert!(error(refresh(&roots[0], Stored::default(), &gap, now())).to_string().starts_with("root expired"));
    // A hop is skipped.
    let mut skipped = files.clone();
    skipped.insert("3.root.json".into(), roots[3].clone());
    let refused = error(refresh(&roots[0], Stored::default(), &skipped, now())).to_string();
    assert!(refused.contains("root version 4, expected 3"), "{refused}");
    // Only the old, or only the new keys signed.
    let stolen = [spare(0xc0), spare(0xc1), spare(0xc2)];
    let public: Vec<_> = stolen.iter().map(|key| key.public()).collect();
    let builder = RootBuilder::after(&claims::<Root>(&roots[0]), now().plus_secs(DAY_SECS)).role("root", &public, 2);
    let (a, b) = (world.key("root-1"), world.key("root-2"));
    for (signers, why) in [
        (vec![&stolen[0], &stolen[1]], "new keys only"),
        (vec![a, b], "old keys only"),
        (vec![a, &stolen[0], &stolen[1]], "one old key"),
        (vec![a, b, &stolen[0]], "one new key"),
    ] {
        let mut forged = world.state.files().clone();
        forged.insert("2.root.json".into(), builder.sign(&signers).unwrap());
        let refused = error(refresh(&roots[0], Stored::default(), &forged, now()));
        assert!(matches!(refused, TufError::Unsigned { .. }), "{why}: {refused}");
    }
}

#[test]
fn endless_roots_are_cut_and_the_next_refresh_goes_on() {
    let mut chain = {
        let key = stranger();
        let mut root = RootBuilder::new(now());
        for role in ["root", "targets", "snapshot", "timestamp"] {
            root = root.role(role, &[key.public()], 1);
        }
        RootChain::new(&root.sign(&[&key]).unwrap(), None).unwrap()
    };
    for hop in 0..=MAX_ROOT_HOPS {
        let next = RootBuilder::after(chain.root(), now()).sign(&[&stranger()]).unwrap();
        match chain.provide(&next) {
            Ok(persist) => assert!(persist.file == "root.json" && hop < MAX_ROOT_HOPS),
            Err(refused) => assert!(matches!(refused, TufError::TooManyRoots { .. }) && hop == MAX_ROOT_HOPS, "{refused}"),
        }
    }
    let mut later = RootChain::new(chain.bytes(), None).unwrap();
    let next = RootBuilder::after(later.root(), now()).sign(&[&stranger()]).unwrap();
    assert!(later.provide(&next).is_ok());
}
