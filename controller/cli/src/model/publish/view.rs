//! `--view` and `--redact`: what a tensor is, and what may not be captured of it.
use leeway_protocol::manifest::Redact;
use leeway_protocol::statistic::{Layout, View};
use leeway_protocol::tensor::TensorSpec;

use leeway_controller::reference::derived::DIRECTIONS;

use crate::failure::{Failure, Outcome};

/// A view as it was asked for: the tensor's name, the kind, and its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub(super) name: String,
    kind: String,
    settings: Vec<(String, String)>,
}

/// Read `NAME=KIND,key=value,…`.
pub(super) fn asked(text: &str) -> Result<Asked, String> {
    let (name, rest) = super::pair(text)?;
    let mut parts = rest.split(',').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_owned();
    let known: &[&str] = match kind.as_str() {
        "image" => &["layout", "channels", "height", "width", "black", "white", "every"],
        "audio" => &["rate", "full_scale", "frames"],
        "text" => &["padding", "unknown"],
        "embedding" => &["seed", "directions"],
        other => return Err(format!("{other:?} is no kind of view: image, audio, text or embedding")),
    };
    let settings = parts.map(super::pair).collect::<Result<Vec<_>, _>>()?;
    match settings.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => Err(format!("{kind} has no setting {key:?}: it has {}", known.join(", "))),
        None => Ok(Asked { name, kind, settings }),
    }
}

/// Read `NAME=drop` or `NAME=coarsen`.
pub(super) fn redact(text: &str) -> Result<(String, Redact), String> {
    let (name, how) = super::pair(text)?;
    match how.as_str() {
        "drop" => Ok((name, Redact::Drop)),
        "coarsen" => Ok((name, Redact::Coarsen)),
        other => Err(format!("{other:?} is neither drop nor coarsen")),
    }
}

impl Asked {
    fn number<T: std::str::FromStr>(&self, key: &str) -> Outcome<Option<T>> {
        let Some((_, text)) = self.settings.iter().find(|(k, _)| k == key) else { return Ok(None) };
        let bad = || Failure::new(format!("--view {}: {key}={text:?} is not a number of that kind", self.name)).code(2);
        text.parse().map(Some).map_err(|_| bad())
    }

    /// `a/b/c`, one for each channel, or one for all.
    fn levels(&self, key: &str, otherwise: f32) -> Outcome<Vec<f32>> {
        let Some((_, text)) = self.settings.iter().find(|(k, _)| k == key) else { return Ok(vec![otherwise]) };
        let all: Result<Vec<f32>, _> = text.split('/').map(str::parse).collect();
        all.map_err(|_| Failure::new(format!("--view {}: {key}={text:?} is no list of numbers like 0/0/0", self.name)).code(2))
    }

    /// The view of a tensor, checked, and how many directions an embedding has.
    pub(super) fn view(&self, spec: &TensorSpec) -> Outcome<(View, u32)> {
        let need = |what: &str| Failure::new(format!("--view {}: say {what}", self.name)).code(2);
        let view = match self.kind.as_str() {
            "image" => self.image(spec)?,
            "audio" => View::Audio {
                rate: self.number("rate")?.ok_or_else(|| need("how many samples a second has, such as rate=16000"))?,
                full_scale: self.number("full_scale")?.unwrap_or(1.0),
                frames: self.number("frames")?.unwrap_or(8),
            },
            "text" => View::Text { padding: self.number("padding")?, unknown: self.number("unknown")? },
            _ => View::Embedding { seed: self.number("seed")?.unwrap_or(0) },
        };
        let bad = |error| Failure::from(error).code(2);
        view.check(spec.elements().unwrap_or(0)).map_err(bad)?;
        Ok((view, self.number("directions")?.unwrap_or(DIRECTIONS)))
    }

    /// Sizes come from the tensor's last axes where they are not given.
    fn image(&self, spec: &TensorSpec) -> Outcome<View> {
        let layout = match self.settings.iter().find(|(k, _)| k == "layout").map(|(_, v)| v.as_str()) {
            None | Some("nchw") => Layout::Nchw,
            Some("nhwc") => Layout::Nhwc,
            Some(other) => return Err(Failure::new(format!("--view {}: layout {other:?} is neither nchw nor nhwc", self.name)).code(2)),
        };
        let size =
            |back: usize| spec.shape.len().checked_sub(back).and_then(|at| spec.shape.get(at)).map(|&n| u32::try_from(n).unwrap_or(0));
        let (c, h, w) = match (layout, spec.shape.len()) {
            (_, 0..=2) => (Some(1), None, None),
            (Layout::Nchw, _) => (size(3), size(2), size(1)),
            (Layout::Nhwc, _) => (size(1), size(3), size(2)),
        };
        let need = |key: &str, found: Option<u32>| -> Outcome<u32> {
            let missing = || Failure::new(format!("--view {}: the tensor is flat, say {key}=…", self.name)).code(2);
            self.number(key)?.or(found).ok_or_else(missing)
        };
        Ok(View::Image {
            layout,
            channels: need("channels", c)?,
            height: need("height", h)?,
            width: need("width", w)?,
            black: self.levels("black", 0.0)?,
            white: self.levels("white", 1.0)?,
            every: self.number("every")?.unwrap_or(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use leeway_protocol::tensor::DType;

    use super::*;

    fn spec(shape: &[u64]) -> TensorSpec {
        TensorSpec { name: "x".into(), dtype: DType::F32, shape: shape.to_vec() }
    }

    #[test]
    fn views_are_read_and_filled_in_from_the_tensor() {
        let (view, _) = asked("x=image,white=255").unwrap().view(&spec(&[1, 3, 8, 9])).unwrap();
        let image = |layout, channels, height, width, white| View::Image {
            layout,
            channels,
            height,
            width,
            black: vec![0.0],
            white: vec![white],
            every: 1,
        };
        assert_eq!(view, image(Layout::Nchw, 3, 8, 9, 255.0));
        let (view, _) = asked("x=image,layout=nhwc").unwrap().view(&spec(&[1, 8, 9, 3])).unwrap();
        assert_eq!(view, image(Layout::Nhwc, 3, 8, 9, 1.0));
        let (view, _) = asked("x=image,height=8,width=8,white=16").unwrap().view(&spec(&[1, 64])).unwrap();
        assert_eq!(view, image(Layout::Nchw, 1, 8, 8, 16.0));
        assert_eq!(asked("x=embedding,directions=4").unwrap().view(&spec(&[1, 64])).unwrap().1, 4);
        for (text, shape, problem) in [
            ("x=image", &[1, 64][..], "say height="),
            ("x=audio", &[1, 64], "rate=16000"),
            ("x=image,every=0", &[1, 3, 8, 8], "`every` is at least 1"),
            ("x=image,layout=chw", &[1, 3, 8, 8], "neither nchw nor nhwc"),
            ("x=text,padding=a", &[1, 8], "not a number"),
            ("x=image,black=a", &[1, 3, 8, 8], "like 0/0/0"),
        ] {
            let error = asked(text).unwrap().view(&spec(shape)).unwrap_err().whole();
            assert!(error.contains(problem), "{text}: {error}");
        }
        assert!(asked("x=smell").unwrap_err().contains("image, audio, text or embedding"));
        assert!(asked("x=audio,pitch=3").unwrap_err().contains("rate, full_scale, frames"));
        assert_eq!(redact("age=coarsen").unwrap(), ("age".to_owned(), Redact::Coarsen));
        assert!(redact("age=hide").is_err());
    }
}
