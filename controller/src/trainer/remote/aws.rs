//! Requests signed as AWS asks for it: Signature Version 4, for JSON requests to one path.
//!
//! Written out instead of taken from an SDK: those bring a runtime and a hundred crates for what is four HMACs. The documented example of
//! the scheme is the test. What stays true: host, date and every header that is signed are sent as they were signed.
use hmac::{Hmac, KeyInit as _, Mac as _};
use leeway_protocol::time::Timestamp;
use sha2::{Digest as _, Sha256};

/// Who signs, and for which service.
#[derive(Clone, PartialEq, Eq)]
pub struct Signer {
    /// The access key's id.
    pub access_key_id: String,
    /// The access key.
    pub secret_access_key: String,
    /// Of a temporary key: its session's token.
    pub session_token: Option<String>,
    /// Such as `eu-west-1`.
    pub region: String,
    /// Such as `sagemaker`.
    pub service: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({} in {})", self.service, self.region)
    }
}

/// A request that is to be signed. Query: `name=value` pairs, encoded already.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Its host.
    pub host: &'a str,
    /// Its path, encoded already.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: &'a str,
    /// Its headers, besides `host` and those that are added.
    pub headers: &'a [(String, String)],
    /// Its body.
    pub body: &'a [u8],
}

impl Signer {
    /// Headers to add: date, session and signature.
    pub fn sign(&self, request: &Unsigned<'_>, at: Timestamp) -> Vec<(String, String)> {
        let stamp = stamp(at);
        let date: String = stamp.chars().take(8).collect();
        let mut added = vec![("x-amz-date".to_owned(), stamp.clone())];
        added.extend(self.session_token.clone().map(|token| ("x-amz-security-token".to_owned(), token)));
        let mut headers: Vec<(String, String)> =
            request.headers.iter().chain(&added).map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        headers.push(("host".to_owned(), request.host.to_owned()));
        headers.sort();
        let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let mut query: Vec<&str> = request.query.split('&').filter(|pair| !pair.is_empty()).collect();
        query.sort_unstable();
        let path = if request.path.is_empty() { "/" } else { request.path };
        let canonical = format!("{}\n{path}\n{}\n{lines}\n{names}\n{}", request.method, query.join("&"), hash(request.body));
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hash(canonical.as_bytes()));
        let secret = format!("AWS4{}", self.secret_access_key);
        let key = [date.as_str(), &self.region, &self.service, "aws4_request"]
            .into_iter()
            .fold(secret.into_bytes(), |key, part| mac(&key, part.as_bytes()));
        let signature = hex(&mac(&key, text.as_bytes()));
        let value = format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", self.access_key_id);
        added.push(("authorization".to_owned(), value));
        added
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // A key of any length is a key.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20150830T123600Z`, from the RFC 3339 form.
fn stamp(at: Timestamp) -> String {
    let text = Timestamp::from_secs(at.as_millis().div_euclid(1000)).to_string();
    let seconds: String = text.chars().take(19).filter(|c| !"-:".contains(*c)).collect();
    format!("{seconds}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the scheme's documentation: ListUsers of IAM on 30 August 2015.
    #[test]
    fn the_documented_example_has_the_documented_signature() {
        let signer = Signer {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            region: "us-east-1".to_owned(),
            service: "iam".to_owned(),
        };
        let headers = [("Content-Type".to_owned(), "application/x-www-form-urlencoded; charset=utf-8".to_owned())];
        let request = Unsigned {
            method: "GET",
            host: "iam.amazonaws.com",
            path: "/",
            query: "Action=ListUsers&Version=2010-05-08",
            headers: &headers,
            body: b"",
        };
        let added = signer.sign(&request, Timestamp::from_secs(1_440_938_160));
        assert_eq!(added[0].1, "20150830T123600Z");
        assert_eq!(
            added[1].1,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }
}
