//! A selector of devices by their labels, as people and programs write it.
use std::collections::BTreeMap;

use leeway_controller::fleet::Selector;

/// What is read prints in a form that is read as the same, and matches the same devices.
pub fn enter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(selector) = text.parse::<Selector>() else { return };
    let printed = selector.to_string();
    let again: Selector = printed.parse().unwrap_or_else(|e| panic!("{printed:?} is not read again: {e}"));
    assert_eq!(again, selector);
    let labels = BTreeMap::from([("region".to_owned(), "coast".to_owned()), ("hw".to_owned(), "a".to_owned())]);
    assert_eq!(again.matches(&labels), selector.matches(&labels));
}

/// What honest selectors look like.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    let texts = ["region=coast, hw in (a, b), !beta", "region!=coast,hw notin (c),line", ""];
    texts.iter().enumerate().map(|(n, text)| (format!("{n}.txt"), text.as_bytes().to_vec())).collect()
}
