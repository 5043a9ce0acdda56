//! Delegations as a graph: in which order roles are asked, which one speaks for a path, and by whose word.
use super::simulator::*;
use super::*;

/// `A>B` is a delegation, `!` makes it terminating, `@` gives it a pattern other than `*`.
fn published(graph: &str, files: &[(&str, &str)]) -> Publisher {
    let mut publisher = Publisher::new();
    let mut roles = BTreeSet::new();
    for edge in graph.split_whitespace() {
        let (edge, pattern) = edge.split_once('@').unwrap_or((edge, "*"));
        let (from, to) = edge.trim_end_matches('!').split_once('>').unwrap();
        publisher.delegate(from, to, &pattern.split(',').collect::<Vec<_>>(), edge.ends_with('!'));
        roles.insert(to);
    }
    files.iter().for_each(|(role, path)| publisher.list(role, path, path.as_bytes()));
    publisher.publish(&roles.into_iter().collect::<Vec<_>>());
    publisher.publish_targets();
    publisher
}

/// The delegated roles that a search asked for, in order.
fn searched(reader: &Reader) -> String {
    let top = ["root", "timestamp", "snapshot", "targets"];
    let roles = reader.asked.iter().map(|file| file.trim_end_matches(".json").rsplit('.').next().unwrap());
    roles.filter(|role| !top.contains(role)).collect::<Vec<_>>().join(" ")
}

const ORDERS: [(&str, &str); 16] = [
    ("targets>A", "A"),
    ("targets>A targets>B", "A B"),
    ("targets>A targets>B B>C", "A B C"),
    ("targets>A targets>B A>C A>D", "A C D B"),
    ("targets>A targets>B A>C C>D", "A C D B"),
    ("targets>A targets>B A>C! A>D", "A C"),
    ("targets>A targets>B A>C! C>D", "A C D"),
    ("targets>A! targets>B A>C", "A C"),
    ("targets>A targets>B A>C A>D! A>E", "A C D"),
    ("targets>A@*.py targets>B A>C", "B"),
    ("targets>A! targets>B@*.py", "A"),
    ("targets>A!@*.py targets>B", "B"),
    ("targets>A targets>B A>C@*.py C>D", "A B"),
    ("targets>A targets>B B>C C>D D>B", "A B C D"),
    ("targets>A A>A", "A"),
    ("targets>A targets>B B>C A>C@*.py", "A B C"),
];

#[test]
fn roles_are_asked_in_order_depth_first_and_once() {
    for (graph, order) in ORDERS {
        let publisher = published(graph, &[]);
        let mut reader = Reader::of(&publisher);
        assert!(matches!(reader.find(&publisher, &["missing"]).as_slice(), [Ok(None)]), "{graph}");
        assert_eq!(searched(&reader), order, "{graph}");
        // The roles are kept now: nothing is asked for again.
        reader.find(&publisher, &["missing"]);
        assert_eq!(searched(&reader), "", "{graph}");
    }
}

#[test]
fn a_plain_refresh_asks_for_no_delegated_role() {
    let publisher = published("targets>A A>B", &[("B", "file")]);
    let mut reader = Reader::of(&publisher);
    reader.refresh(&publisher).unwrap();
    assert_eq!(searched(&reader), "");
}

const TREE: &str = "targets>A@*.doc,*.md,foo-?.tgz targets>B@releases/*/* B>C@releases/x/* B>D@releases/y/*.zip";
const IN_TREE: [(&str, &str); 8] = [
    ("targets", "plain"),
    ("A", "README.md"),
    ("A", "releases/README.md"),
    ("A", "foo-1.tgz"),
    ("A", "foo-alpha.tgz"),
    ("C", "releases/x/x_v1"),
    ("D", "releases/y/y_v1.zip"),
    ("D", "releases/z/z_v1.zip"),
];

#[test]
fn a_path_is_found_where_every_delegation_on_the_way_speaks_for_it() {
    for (path, role, order) in [
        ("plain", Some("targets"), ""),
        ("README.md", Some("A"), "A"),
        ("releases/x/x_v1", Some("C"), "B C"),
        ("releases/y/y_v1.zip", Some("D"), "B D"),
        ("releases/z/z_v1.zip", None, "B"),
        ("releases/README.md", None, ""),
        ("foo-1.tgz", Some("A"), "A"),
        ("foo-alpha.tgz", None, ""),
        ("README.MD", None, ""),
        ("/README.md", None, ""),
        ("releases/x/../y/y_v1.zip", None, ""),
    ] {
        let publisher = published(TREE, &IN_TREE);
        let mut reader = Reader::of(&publisher);
        let found = reader.find(&publisher, &[path]).remove(0).unwrap();
        assert_eq!((found.map(|target| target.role), searched(&reader)), (role.map(str::to_owned), order.to_owned()), "{path}");
    }
}

#[test]
fn prefixes_of_the_digest_of_a_path_speak_for_it() {
    let hex = Digest::of(b"some/file").hex();
    let other = if hex.starts_with('0') { "1" } else { "0" };
    for (prefixes, found) in [
        (vec![hex[..1].to_owned()], true),
        (vec![hex.clone()], true),
        (vec![other.to_owned(), hex[..8].to_owned()], true),
        (vec![other.to_owned()], false),
        (vec![hex[1..].to_owned()], false),
        (vec![hex.to_uppercase() + "0"], false),
        (vec![], false),
    ] {
        let mut publisher = published("targets>A", &[("A", "some/file")]);
        let role = &mut publisher.targets().delegations.as_mut().unwrap().roles[0];
        (role.paths, role.path_hash_prefixes) = (None, Some(prefixes.clone()));
        publisher.publish_targets();
        let mut reader = Reader::of(&publisher);
        assert_eq!(reader.find(&publisher, &["some/file"]).remove(0).unwrap().is_some(), found, "{prefixes:?}");
    }
}

/// A and B both delegate to `shared`, each with a key of its own for it; `signer` is whose key signs.
fn diamond(signer: usize) -> Publisher {
    let mut publisher = published("targets>A@a/* targets>B@b/*", &[]);
    publisher.delegate("A", "shared", &["a/*"], false);
    publisher.delegate("B", "shared", &["b/*"], false);
    publisher.list("shared", "a/file", b"a");
    publisher.list("shared", "b/file", b"b");
    let pen = publisher.pens["shared"][signer].clone();
    publisher.pens.insert("shared".into(), vec![pen]);
    publisher.publish(&["shared", "A", "B"]);
    publisher.publish_targets();
    publisher
}

#[test]
fn a_role_that_two_delegate_to_is_believed_by_the_word_of_the_one_on_the_way() {
    for (signer, good, bad) in [(0, "a/file", "b/file"), (1, "b/file", "a/file")] {
        let publisher = diamond(signer);
        for paths in [[good, bad], [bad, good]] {
            // In one run, in two runs over what the first kept, and when every role is loaded at once.
            let mut reader = Reader::of(&publisher);
            let mut results = BTreeMap::new();
            for (path, result) in paths.iter().zip(reader.find(&publisher, &paths)) {
                results.insert(*path, result);
            }
            assert_eq!(results[good].as_ref().unwrap().as_ref().unwrap().role, "shared");
            assert!(matches!(results[bad], Err(TufError::Unsigned { .. })), "{paths:?}: {:?}", results[bad]);
            for path in paths {
                assert_eq!(reader.find(&publisher, &[path]).remove(0).is_ok(), path == good, "{path} from the disk");
            }
        }
        let mut client = Client::new(&publisher.files["1.root.json"], Stored::default(), now()).unwrap();
        client.run_over(&publisher.files).unwrap();
        assert!(client.target(good).unwrap().is_some());
        assert!(matches!(client.target(bad), Err(TufError::Unsigned { .. })));
        assert_eq!(client.failures().contains_key("shared"), signer == 1, "the first delegator's word is noted when it is wrong");
    }
    // Signed by both keys it is believed on both ways.
    let mut publisher = diamond(0);
    let first = publisher.pens["shared"][0].clone();
    let second = diamond(1).pens["shared"][0].clone();
    publisher.pens.insert("shared".into(), vec![first, second]);
    publisher.publish(&["shared", "snapshot", "timestamp"]);
    assert!(Reader::of(&publisher).find(&publisher, &["a/file", "b/file"]).iter().all(|found| matches!(found, Ok(Some(_)))));
}

#[test]
fn a_role_that_the_snapshot_does_not_list_is_not_even_asked_for() {
    let mut publisher = published("targets>A", &[("A", "file")]);
    publisher.snapshot.meta.remove("A.json");
    publisher.publish(&["snapshot", "timestamp"]);
    let mut reader = Reader::of(&publisher);
    reader.refresh(&publisher).unwrap();
    assert!(matches!(reader.find(&publisher, &["file"]).as_slice(), [Err(TufError::NotListed { .. })]));
    assert_eq!(reader.asked, ["2.root.json", "timestamp.json"]);
    assert_eq!(reader.disk.file("A.json"), None);
}

#[test]
fn a_delegated_role_is_held_to_what_the_snapshot_lists() {
    type Edit = fn(&mut Publisher);
    let cases: [(&str, Edit); 5] = [
        ("WrongVersion", |publisher| {
            publisher.header("A").version = 2;
            publisher.serve("A", 1);
            publisher.publish_targets();
        }),
        ("WrongDigest", |publisher| {
            publisher.digests = true;
            publisher.publish(&["A"]);
            publisher.snapshot.meta.get_mut("A.json").unwrap().hashes = Some([("sha256".to_owned(), "0".repeat(64))].into());
            publisher.publish_targets();
        }),
        ("Missing", |publisher| drop(publisher.files.remove("1.A.json"))),
        ("Expired", |publisher| {
            publisher.header("A").expires = metadata::Expires::at(now());
            publisher.publish(&["A"]);
            publisher.publish_targets();
        }),
        ("Malformed", |publisher| publisher.tamper("1.A.json", |v| v["signed"]["_type"] = "snapshot".into())),
    ];
    for (expected, edit) in cases {
        let mut publisher = published("targets>A@a targets>B", &[("A", "a"), ("B", "a"), ("B", "b")]);
        edit(&mut publisher);
        let mut reader = Reader::of(&publisher);
        let mut found = reader.find(&publisher, &["a", "b"]);
        assert_eq!(kind(found.remove(0).map(drop)), expected, "another role may not speak in its place");
        assert_eq!(found.remove(0).unwrap().unwrap().role, "B");
    }
}

#[test]
fn no_name_of_a_role_leaves_the_directory() {
    for (role, file) in [
        ("?", "1.%3F.json"),
        ("#", "1.%23.json"),
        ("/role", "1.%2Frole.json"),
        ("../role", "1...%2Frole.json"),
        ("a b\\c\u{0}", "1.a%20b%5Cc%00.json"),
        ("1.root", "1.1.root.json"),
    ] {
        let mut publisher = Publisher::new();
        publisher.delegate("targets", role, &["*"], false);
        publisher.list(role, "file", b"file");
        publisher.publish(&[role]);
        publisher.publish_targets();
        let mut reader = Reader::of(&publisher);
        assert_eq!(reader.find(&publisher, &["file"]).remove(0).unwrap().unwrap().role, role);
        assert_eq!(reader.asked.last().unwrap(), file);
        assert!(reader.disk.file(&file[2..]).is_some(), "kept as {}", &file[2..]);
    }
    for role in ["", "root", "timestamp", "snapshot", "targets", &"x".repeat(400), &"/".repeat(70)] {
        let mut publisher = Publisher::new();
        publisher.delegate("targets", "x", &["*"], false);
        publisher.targets().delegations.as_mut().unwrap().roles[0].name = role.to_owned();
        publisher.publish_targets();
        assert_eq!(kind(Reader::of(&publisher).refresh(&publisher)), "Malformed", "{role}");
    }
}

#[test]
fn a_graph_without_end_ends() {
    // A chain that is longer than any search follows.
    let chain: Vec<String> = (0..40).map(|n| if n == 0 { "targets>r0".to_owned() } else { format!("r{}>r{n}", n - 1) }).collect();
    let publisher = published(&chain.join(" "), &[("r20", "near"), ("r39", "far")]);
    let mut reader = Reader::of(&publisher);
    let found = reader.find(&publisher, &["near", "far"]);
    assert!(matches!(found.as_slice(), [Ok(Some(_)), Ok(None)]), "{found:?}");
    // Roles that are delegated to and never published, more than one refresh looks at: it completes all the same.
    let mut publisher = Publisher::new();
    let pen = publisher.delegate("targets", "r0", &["*"], false);
    let delegations = publisher.targets().delegations.as_mut().unwrap();
    let first = delegations.roles[0].clone();
    delegations.roles.extend((1..metadata::MAX_DELEGATIONS).map(|n| DelegatedRole { name: format!("r{n}"), ..first.clone() }));
    let wide = publisher.targets().delegations.clone();
    for role in ["r0", "r1"] {
        publisher.roles.entry(role.to_owned()).or_insert(Targets::new(0, now().plus_secs(DAY_SECS))).delegations = wide.clone();
        publisher.pens.insert(role.to_owned(), vec![pen.clone()]);
    }
    publisher.publish(&["r0", "r1"]);
    publisher.publish_targets();
    let mut client = Client::new(&publisher.files["1.root.json"], Stored::default(), now()).unwrap();
    client.run_over(&publisher.files).unwrap();
    assert!(client.is_fresh());
    let paths: Vec<String> = (0..40).map(|n| format!("path-{n}")).collect();
    let mut reader = Reader::of(&publisher);
    let found = reader.find(&publisher, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(found.iter().all(|found| matches!(found, Err(TufError::NotListed { .. }))));
}
