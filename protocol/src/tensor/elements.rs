//! The elements of one tensor, borrowed from whoever holds it: what profiles look at, on the device and where references are made.

/// The elements of one tensor, row-major.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Elements<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// Signed bytes.
    I8(&'a [i8]),
    /// Unsigned bytes.
    U8(&'a [u8]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// 64-bit integers.
    I64(&'a [i64]),
    /// Truth values.
    Bool(&'a [bool]),
    /// Not given: constants and recurrent state.
    Absent,
}

impl Elements<'_> {
    /// One element as a double.
    #[inline]
    pub fn at(&self, index: usize) -> Option<f64> {
        match self {
            Self::F32(v) => v.get(index).map(|&x| f64::from(x)),
            Self::I8(v) => v.get(index).map(|&x| f64::from(x)),
            Self::U8(v) => v.get(index).map(|&x| f64::from(x)),
            Self::I32(v) => v.get(index).map(|&x| f64::from(x)),
            Self::I64(v) => v.get(index).map(|&x| x as f64),
            Self::Bool(v) => v.get(index).map(|&x| f64::from(u8::from(x))),
            Self::Absent => None,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U8(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Absent => 0,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every element is a finite number; integers always are.
    #[inline]
    pub fn all_finite(&self) -> bool {
        // Bits or-ed together vectorise where a sum, which has an order, and a short-circuit do not.
        const EXPONENT: u32 = 0x7f80_0000;
        match self {
            Self::F32(v) => v.iter().map(|x| u32::from(x.to_bits() & EXPONENT == EXPONENT)).fold(0, |any, one| any | one) == 0,
            _ => true,
        }
    }

    /// Copy every `step`-th element from `start` on into `into`, as floats; whether there were enough.
    #[inline]
    pub fn copy_to(&self, start: usize, step: usize, into: &mut [f32]) -> bool {
        fn copy<T: Copy>(from: &[T], start: usize, step: usize, into: &mut [f32], float: impl Fn(T) -> f32) -> bool {
            let Some(from) = from.get(start..) else { return false };
            if step == 1 {
                let Some(from) = from.get(..into.len()) else { return false };
                into.iter_mut().zip(from).for_each(|(place, &x)| *place = float(x));
                return true;
            }
            let mut copied = 0;
            for (place, &x) in into.iter_mut().zip(from.iter().step_by(step.max(1))) {
                *place = float(x);
                copied += 1;
            }
            copied == into.len()
        }
        match self {
            Self::F32(v) => copy(v, start, step, into, |x| x),
            Self::I8(v) => copy(v, start, step, into, f32::from),
            Self::U8(v) => copy(v, start, step, into, f32::from),
            Self::I32(v) => copy(v, start, step, into, |x| x as f32),
            Self::I64(v) => copy(v, start, step, into, |x| x as f32),
            Self::Bool(v) => copy(v, start, step, into, |x| f32::from(u8::from(x))),
            Self::Absent => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_that_is_no_number_is_found() {
        let mut values = vec![1.5f32; 10_000];
        assert!(Elements::F32(&values).all_finite());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[7_777] = bad;
            assert!(!Elements::F32(&values).all_finite());
        }
        assert!(Elements::F32(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE]).all_finite());
        assert!(Elements::I8(&[-1]).all_finite());
    }

    #[test]
    fn strides_are_copied_whole_or_refused() {
        let bytes: Vec<u8> = (0..12).collect();
        let mut three = [0.0; 3];
        assert!(Elements::U8(&bytes).copy_to(1, 4, &mut three));
        assert_eq!(three, [1.0, 5.0, 9.0]);
        assert!(Elements::U8(&bytes).copy_to(9, 1, &mut three));
        assert!(!Elements::U8(&bytes).copy_to(10, 1, &mut three));
        assert!(!Elements::U8(&bytes).copy_to(5, 4, &mut three));
        assert!(!Elements::U8(&bytes).copy_to(13, 1, &mut three));
        assert!(!Elements::Absent.copy_to(0, 1, &mut three));
    }
}
