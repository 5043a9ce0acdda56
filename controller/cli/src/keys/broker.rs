//! A certificate for a broker that is not the controller's own, signed by the device authority: devices trust no other.
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use clap::Args;
use leeway_controller::io::tls::authority::{Authority, CA_FILE};
use leeway_protocol::ids::Tenant;
use leeway_protocol::time::Timestamp;

use super::{expect_absent, write_new};
use crate::failure::{During, Failure, Outcome};
use crate::output::putln;

const DAY_SECS: i64 = 86_400;

/// `leeway keys broker`.
#[derive(Debug, Args)]
pub struct Broker {
    /// The folder with the device authority: `keys` in the controller's data directory. The authority is made if there is none.
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,
    /// A name or an address under which devices reach the broker; may be repeated.
    #[arg(long, value_name = "NAME", required = true)]
    pub name: Vec<String>,
    /// Where to write broker.pem, broker.key and a copy of the authority's certificate.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Days it is good for.
    #[arg(long, default_value_t = 365)]
    pub days: u16,
    /// Whose fleet, if the authority is made now.
    #[arg(long, default_value = "main")]
    pub tenant: Tenant,
}

pub(super) fn run(args: &Broker, now: Timestamp) -> Outcome {
    let [chain, key, ca] = ["broker.pem", "broker.key", CA_FILE].map(|name| args.out.join(name));
    for path in [&chain, &key, &ca] {
        expect_absent(path)?;
    }
    if !args.ca.is_dir() {
        return Err(
            Failure::new(format!("there is no folder {}", args.ca.display())).help("it is `keys` in the controller's data directory")
        );
    }
    let authority = Authority::open(&args.ca, &args.tenant, now)?;
    let made = authority.server(&args.name, now, i64::from(args.days) * DAY_SECS)?;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&args.out).during(format!("making {}", args.out.display()))?;
    write_new(&key, made.key.as_bytes(), 0o600)?;
    write_new(&chain, made.chain.as_bytes(), 0o644)?;
    write_new(&ca, authority.pem().as_bytes(), 0o644)?;
    putln!("made {} and {}, good for {} days; devices are checked against {}", chain.display(), key.display(), args.days, ca.display());
    Ok(())
}
