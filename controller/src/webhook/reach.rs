//! Where a webhook may go: to public addresses over TLS, and wherever whoever starts the controller allows.
//!
//! Whoever may make a webhook lets the controller send requests, and the controller stands where its callers do not: beside a
//! cloud's metadata service, a router's pages, a database. So an address is judged where it counts, after the name was looked up
//! and before it is connected to, for every request anew; every address of a name must pass, and redirects are not followed.
//! What stays true: no request leaves for an address that [`Reach::judge`] has not passed.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use axum::http::Uri;

/// The longest address.
const MAX_URL: usize = 2_000;

/// What is allowed beyond public addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    allowed: Vec<Allowed>,
}

/// One exception: a host by its name, or a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// This name, whatever it points at, also without TLS.
    Host(String),
    /// These addresses; also without TLS where the URL names the address itself.
    Network(IpAddr, u8),
}

/// A URL that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The URL.
    pub url: String,
    /// Its host, small letters, without brackets.
    pub host: String,
}

/// Somewhere a webhook may not go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// Not a URL for this.
    #[error("{0:?} is no address for a webhook: give a whole one such as https://hooks.example/leeway, without user name and fragment")]
    Url(String),
    /// Without TLS.
    #[error("{0} is without TLS: use https, or allow the host by starting the controller with --webhook-allow {1}")]
    Plain(String, String),
    /// Not a public address.
    #[error(
        "{host} is at {address}, which is not a public address: requests of a webhook do not go there, unless the controller is started \
         with --webhook-allow {host}"
    )]
    Inside {
        /// The host.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// Not an exception.
    #[error("{0:?} is neither a host name nor a network: write hooks.example, 10.1.2.3 or 10.1.0.0/16")]
    Allowed(String),
}

impl FromStr for Allowed {
    type Err = ReachError;

    fn from_str(text: &str) -> Result<Self, ReachError> {
        let wrong = || ReachError::Allowed(text.chars().take(80).collect());
        if let Some((address, bits)) = text.split_once('/') {
            let (address, bits) = (address.parse::<IpAddr>().map_err(|_| wrong())?, bits.parse::<u8>().map_err(|_| wrong())?);
            let most = if address.is_ipv4() { 32 } else { 128 };
            return if bits <= most { Ok(Self::Network(address, bits)) } else { Err(wrong()) };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let plain = !text.is_empty() && text.len() <= 253 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if plain { Ok(Self::Host(text.to_ascii_lowercase())) } else { Err(wrong()) }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Network(address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

impl Reach {
    /// With these exceptions.
    pub fn new(allowed: Vec<Allowed>) -> Self {
        Self { allowed }
    }

    /// Look at a URL: its form, its scheme, and its host where that is an address already.
    pub fn target(&self, url: &str) -> Result<Target, ReachError> {
        let wrong = || ReachError::Url(url.chars().take(80).collect());
        if url.len() > MAX_URL || url.contains('#') || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong());
        }
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong());
        }
        let address = host.parse::<IpAddr>().ok();
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if self.names(&host) || address.is_some_and(|a| self.holds(a)) => {}
            Some("http") => return Err(ReachError::Plain(url.to_owned(), host)),
            _ => return Err(wrong()),
        }
        if let Some(address) = address {
            self.judge(&host, address)?;
        }
        Ok(Target { url: url.to_owned(), host })
    }

    /// Whether a request for `host` may go to `address`.
    pub fn judge(&self, host: &str, address: IpAddr) -> Result<(), ReachError> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if is_public(address) || self.names(&host) || self.holds(address) { Ok(()) } else { Err(ReachError::Inside { host, address }) }
    }

    fn names(&self, host: &str) -> bool {
        self.allowed.iter().any(|allowed| matches!(allowed, Allowed::Host(name) if name == host))
    }

    fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allowed.iter().any(|allowed| match allowed {
            Allowed::Network(network, bits) => lies_in(address, *network, *bits),
            Allowed::Host(_) => false,
        })
    }
}

/// Networks that are not the public internet, or lead back into one that is not: RFC 6890 and its registry, with what is
/// reserved, shared, for documentation, for tests, for multicast, and the ranges that carry an IPv4 address within.
const INSIDE_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// Of IPv6 only what is given out for the public, 2000::/3, without these.
const INSIDE_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Whether an address belongs to the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !INSIDE_V4.iter().any(|(network, bits)| lies_in(v4.into(), (*network).into(), *bits)),
        IpAddr::V6(v6) => {
            let inside = INSIDE_V6.iter().any(|(network, bits)| lies_in(v6.into(), (*network).into(), *bits));
            lies_in(v6.into(), PUBLIC_V6.0.into(), PUBLIC_V6.1) && !inside
        }
    }
}

fn lies_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            (a.to_bits() ^ n.to_bits()) & mask == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            (a.to_bits() ^ n.to_bits()) & mask == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(allowed: &[&str]) -> Reach {
        Reach::new(allowed.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        let inside = [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.1.1",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ];
        for text in inside {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_webhook_goes_to_public_places_over_tls_and_where_it_was_allowed() {
        let table: [(&[&str], &str, Option<&str>); 21] = [
            (&[], "https://hooks.example/x?y=z", None),
            (&[], "https://hooks.example:8443", None),
            (&[], "https://1.1.1.1/", None),
            (&[], "http://hooks.example/", Some("without TLS")),
            (&[], "https://127.0.0.1/", Some("not a public address")),
            (&[], "https://[::1]/", Some("not a public address")),
            (&[], "https://[::ffff:169.254.169.254]/latest", Some("not a public address")),
            (&[], "ftp://hooks.example/", Some("no address for a webhook")),
            (&[], "file:///etc/passwd", Some("no address for a webhook")),
            (&[], "hooks.example", Some("no address for a webhook")),
            (&[], "/path", Some("no address for a webhook")),
            (&[], "https://user:word@hooks.example/", Some("no address for a webhook")),
            (&[], "https://hooks.example/#there", Some("no address for a webhook")),
            (&[], "https://hooks.example/\r\nx: y", Some("no address for a webhook")),
            (&["hooks.local"], "http://hooks.local:9000/", None),
            (&["HOOKS.local"], "http://Hooks.LOCAL:9000/", None),
            (&["hooks.local"], "http://other.local/", Some("without TLS")),
            (&["10.1.0.0/16"], "http://10.1.2.3/", None),
            (&["10.1.0.0/16"], "https://10.2.0.1/", Some("not a public address")),
            (&["127.0.0.1"], "http://127.0.0.1:1/", None),
            (&["fd00::/8"], "https://[fd12::1]/", None),
        ];
        for (allowed, url, refused) in table {
            match (reach(allowed).target(url), refused) {
                (Ok(target), None) => assert_eq!(target.url, url),
                (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{url}: {error}"),
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
        let long = format!("https://hooks.example/{}", "a".repeat(MAX_URL));
        assert!(reach(&[]).target(&long).is_err());
    }

    #[test]
    fn a_name_is_judged_by_every_address_it_has_at_that_moment() {
        let plain = reach(&[]);
        assert!(plain.judge("hooks.example", "1.1.1.1".parse().unwrap()).is_ok());
        let inside = plain.judge("hooks.example", "169.254.169.254".parse().unwrap()).unwrap_err().to_string();
        assert!(inside.contains("hooks.example is at 169.254.169.254") && inside.contains("--webhook-allow"), "{inside}");
        assert!(reach(&["hooks.example"]).judge("Hooks.Example", "10.0.0.1".parse().unwrap()).is_ok(), "allowed by name");
        assert!(reach(&["10.0.0.0/8"]).judge("any", "::ffff:10.0.0.1".parse().unwrap()).is_ok(), "the same address in another dress");
        assert!(reach(&["10.0.0.0/8"]).judge("any", "11.0.0.1".parse::<IpAddr>().unwrap()).is_ok());
        assert!(reach(&["0.0.0.0/0"]).judge("any", "127.0.0.1".parse().unwrap()).is_ok());
        assert!(reach(&["0.0.0.0/0"]).judge("any", "::1".parse().unwrap()).is_err(), "one family is not the other");
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "a b", "https://x", "fd00::/129", "x/8"] {
            assert!(wrong.parse::<Allowed>().is_err(), "{wrong}");
        }
        assert_eq!("10.0.0.0/8".parse::<Allowed>().unwrap().to_string(), "10.0.0.0/8");
    }
}
