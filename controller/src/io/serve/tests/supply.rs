//! What goes with a release: checked before it is taken in, handed out as it came, and still there after a restart.
use super::*;
use crate::io::control::Attached;
use crate::supply::oms;
use crate::supply::provenance::{self, Build};

/// A release with descent whose model and manifest are uploaded, and nothing else.
async fn uploaded(controller: &Controller, name: &str, seq: u64) -> Manifest {
    let model = controller.blobs().put(format!("model {name}").as_bytes()).await.unwrap();
    let lineage = provenance::tests::release().lineage;
    let manifest = Manifest { version: name.parse().unwrap(), seq, model, lineage, ..manifest() };
    controller.blobs().put(&manifest.to_bytes()).await.unwrap();
    manifest
}

fn refusal(outcome: Result<crate::io::control::Published, ControlError>) -> String {
    match outcome {
        Err(ControlError::Invalid(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_contradicts_a_release_is_refused_and_what_came_with_it_is_handed_out_as_it_came() {
    let place = Place::new();
    let handle = place.start().await;
    let controller = handle.controller.clone();
    let (line, name) = (line(), |text: &str| -> leeway_protocol::ids::Version { text.parse().unwrap() });
    place.publish(&controller, "1", 1).await;
    let none = controller.attached(&line, &name("1"), Attached::Provenance).await.unwrap_err();
    assert!(matches!(none, ControlError::NotFound(_)), "a release without is as good as before: {none}");

    let release = uploaded(&controller, "2", 2).await;
    let key = place.ceremony.key("rain").unwrap();
    let said = provenance::statement(&release, release.blob(), false, &Build::default());
    let sealed = provenance::seal(&said, key);
    let bundle = oms::sign("m", &[(".".to_owned(), release.model.digest)].into(), &[], &oms::tests::key(7));
    let with = |provenance: &[u8], bundle: &[u8]| {
        let attached = (Some(Blob::of(provenance)), Some(Blob::of(bundle)));
        place.role_with(&controller, &release, &TargetCustom { provenance: attached.0, bundle: attached.1, ..TargetCustom::of(&release) })
    };
    let mut other_data = release.clone();
    other_data.lineage.datasets[0].digest = Digest::of(b"other data");
    let mut other_model = release.clone();
    other_model.model = Blob::of(b"other model");
    let statement = |of: &Manifest| provenance::statement(of, release.blob(), false, &Build::default());
    let other_files = oms::sign("m", &[(".".to_owned(), Digest::of(b"other"))].into(), &[], &oms::tests::key(7));
    for (provenance, bundle, why) in [
        (provenance::seal(&statement(&other_data), key), &bundle, "contradicts the manifest"),
        (provenance::seal(&statement(&other_model), key), &bundle, "subject is not the model"),
        (provenance::seal(&said, place.ceremony.key("rain-auto").unwrap()), &bundle, "expected key"),
        (b"no envelope".to_vec(), &bundle, "provenance is refused"),
        (sealed.clone(), &other_files, "of other files than this model"),
        (sealed.clone(), &b"no bundle".to_vec(), "model signature is refused"),
    ] {
        for bytes in [&provenance, bundle] {
            controller.blobs().put(bytes).await.unwrap();
        }
        let refused = refusal(controller.upload_role("rain", &with(&provenance, bundle), "ann").await);
        assert!(refused.contains(why) && refused.contains("models/rain/release/2.onnx"), "{refused}");
    }
    assert!(refusal(controller.upload_role("rain", &with(&sealed, b"never uploaded"), "ann").await).contains("was not uploaded"));
    let long = TargetCustom { provenance: Some(Blob { length: 2 << 20, ..Blob::of(&sealed) }), ..TargetCustom::of(&release) };
    let long = place.role_with(&controller, &release, &long);
    assert!(refusal(controller.upload_role("rain", &long, "ann").await).contains("the bound is"));
    assert!(controller.snapshot().version(&line, &name("2")).is_none(), "nothing of it was taken in");

    controller.upload_role("rain", &with(&sealed, &bundle), "ann").await.unwrap();
    let bom = controller.bill_of_materials(&line, &name("2")).await.unwrap();
    assert!(bom.to_string().contains(&Blob::of(&sealed).digest.hex()), "{bom}");
    drop(controller);
    handle.shutdown().await;
    let handle = place.start().await;
    let controller = handle.controller.clone();
    for (which, bytes) in [(Attached::Provenance, &sealed), (Attached::Bundle, &bundle)] {
        assert_eq!(controller.attached(&line, &name("2"), which).await.unwrap(), *bytes, "{}", which.as_str());
    }
    assert_eq!(controller.bill_of_materials(&line, &name("2")).await.unwrap(), bom);
}
