//! What no tensor of a model has, whoever describes it: sizes that would make the
//! program allocate or count for nothing.

use crate::interface::TensorInfo;

/// Names are some 60 bytes long.
const MAX_NAME: usize = 4096;
/// PyTorch's limit is 64; models use up to 5.
const MAX_DIMS: usize = 16;
/// Elements of a tensor.
const MAX_ELEMENTS: u64 = 1 << 48;
/// A tensor without elements takes no bytes, whatever its other dimensions are; as
/// nothing in the file vouches for these, they must be small.
const MAX_EMPTY: u64 = 1 << 20;

/// Checks a tensor's name and shape.
///
/// # Errors
/// What is wrong, in words.
pub fn check_tensor(tensor: &TensorInfo) -> Result<(), String> {
    if tensor.name.len() > MAX_NAME {
        let start: String = tensor.name.chars().take(40).collect();
        return Err(format!(
            "the tensor {start:?}… has a name of {} bytes; the limit is {MAX_NAME}",
            tensor.name.len()
        ));
    }
    if tensor.shape.len() > MAX_DIMS {
        return Err(format!(
            "the tensor {:?} has {} dimensions; the limit is {MAX_DIMS}",
            tensor.name,
            tensor.shape.len()
        ));
    }
    let limit = match tensor.shape.contains(&0) {
        true => MAX_EMPTY,
        false => MAX_ELEMENTS,
    };
    let mut dims = tensor.shape.iter().map(|&dim| dim.max(1));
    match dims.try_fold(1u64, |product, dim| product.checked_mul(dim)) {
        Some(product) if product <= limit => Ok(()),
        _ => Err(format!(
            "the tensor {:?} has the impossible shape {:?}",
            tensor.name, tensor.shape
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, shape: &[u64]) -> Result<(), String> {
        check_tensor(&TensorInfo {
            name: name.into(),
            dtype: "F32".into(),
            shape: shape.to_vec(),
            bytes: 0,
        })
    }

    #[test]
    fn real_shapes_pass() {
        for shape in [
            &[][..],
            &[0],
            &[0, 4096],
            &[256_000, 16_384],
            &[128, 2048, 768],
        ] {
            assert_eq!(check("model.layers.0.x", shape), Ok(()), "{shape:?}");
        }
    }

    #[test]
    fn impossible_ones_do_not() {
        for shape in [
            &[1 << 40, 0][..],
            &[0, 1 << 21],
            &[u64::MAX, 2],
            &[1 << 24, 1 << 25],
            &[1; 17],
        ] {
            assert!(check("x", shape).is_err(), "{shape:?}");
        }
        assert!(check(&"x".repeat(5000), &[1]).is_err());
    }
}
