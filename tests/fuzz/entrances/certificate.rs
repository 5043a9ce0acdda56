//! A device's certificate and its request for one (DER), as they come out of a handshake and an enrolment.
use leeway_controller::io::tls::authority::Request;
use leeway_controller::io::tls::peer::Peer;
use leeway_protocol::ids::Tenant;

/// What is read as a device's certificate names one device of the tenant that was asked for.
pub fn enter(bytes: &[u8]) {
    let (own, other): (Tenant, Tenant) = ("main".parse().unwrap(), "other".parse().unwrap());
    if Peer::read(bytes, &own).is_some() {
        assert!(Peer::read(bytes, &other).is_none(), "one certificate in two fleets");
    }
    // Its signature is over its content, so nothing but the honest one is read as a request.
    let _ = Request::read(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Request::parse(text);
    }
}

/// Both hold signatures that differ with every try, so those of the corpus were made once.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    Vec::new()
}
