//! Tensors that stay plain numbers.

use crate::interface::{
    ElementType, Error, ModelDescription, Result, RowSplit, Span, TensorInfo, TensorView, Unit,
    UnitInput,
};
use crate::kernels::convert;

/// The unit that writes a tensor of the model as plain numbers ([`copy_rows`]), cut by rows.
///
/// # Errors
/// If the tensor does not exist, or its rows cannot be counted.
pub fn copy_unit(model: &ModelDescription, tensor: usize, span: Span) -> Result<Unit> {
    let info = model.tensors.get(tensor);
    let info = info.ok_or_else(|| Error::internal(format!("there is no tensor {tensor}")))?;
    let rows = info
        .rows()
        .ok_or_else(|| Error::unsupported(format!("\"{}\" is too large", info.name)))?;
    Ok(Unit {
        label: info.name.clone(),
        layer: layer_of(&info.name),
        inputs: vec![UnitInput::rows_of(tensor)],
        outputs: vec![span],
        split: (rows > 0).then_some(RowSplit { rows, step: 1 }),
        scratch_bytes: info.cols().saturating_mul(4),
        ..Unit::default()
    })
}

/// Writes the rows of a view as numbers of a type: the same bytes if they are of that type.
///
/// # Errors
/// If the output has another length than the rows, or one of the types is raw.
pub fn copy_rows(input: &TensorView<'_>, element: ElementType, output: &mut [u8]) -> Result<()> {
    let row_bytes = input.cols() * element.bytes();
    if row_bytes.checked_mul(input.rows()) != Some(output.len()) {
        return Err(Error::internal(format!(
            "{} rows of {} numbers do not fill {} bytes",
            input.rows(),
            input.cols(),
            output.len()
        )));
    }
    if input.element() == element {
        output.copy_from_slice(input.bytes());
        return Ok(());
    }
    // A tensor without rows may claim any number of columns.
    if output.is_empty() {
        return Ok(());
    }
    let mut row = vec![0.0; input.cols()];
    for (index, out) in output.chunks_exact_mut(row_bytes).enumerate() {
        input.row_to_f32(index, &mut row)?;
        convert::from_f32(element, &row, out)?;
    }
    Ok(())
}

/// The type in which a tensor of a source is written if it stays plain: its own (vectors that the
/// source has widened get back the [type that they had](ModelDescription::narrow)), or if that is
/// no plain one, the 16-bit one that the configuration names, else `BF16`.
pub fn plain_dtype(model: &ModelDescription, tensor: &TensorInfo) -> ElementType {
    if let (Some(narrow), "F32", 1) = (&model.narrow, &*tensor.dtype, tensor.shape.len())
        && let Some(element) = ElementType::from_dtype(narrow)
    {
        return element;
    }
    let named = |key: &str| model.config.get(key).and_then(serde_json::Value::as_str);
    let half = named("dtype").or_else(|| named("torch_dtype")) == Some("float16");
    let usual = match half {
        true => ElementType::F16,
        false => ElementType::BF16,
    };
    ElementType::from_dtype(&tensor.dtype).unwrap_or(usual)
}

/// The safetensors name of a type in which tensors are written.
pub(super) fn dtype_name(element: ElementType) -> &'static str {
    match element {
        ElementType::F32 => "F32",
        ElementType::F16 => "F16",
        ElementType::BF16 | ElementType::Raw => "BF16",
    }
}

/// The number after `layers.` in a Hugging Face tensor name.
pub fn layer_of(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::Inputs;
    use crate::testing::TestModel;

    #[test]
    fn rows_are_copied_or_converted() {
        let bytes: Vec<u8> = [1.0f32, -2.5]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let view = TensorView::new(ElementType::F32, 2, 1, &bytes).unwrap();
        let mut same = [0; 8];
        copy_rows(&view, ElementType::F32, &mut same).unwrap();
        assert_eq!(same, bytes[..]);
        let mut half = [0; 4];
        copy_rows(&view, ElementType::F16, &mut half).unwrap();
        assert_eq!(half, [0x00, 0x3c, 0x00, 0xc1]);
        assert!(copy_rows(&view, ElementType::F16, &mut same).is_err());
    }

    #[test]
    fn plain_types_stay() {
        let mut model = TestModel::tiny_llama();
        let mut tensor = model.model().tensors[0].clone();
        assert_eq!(plain_dtype(model.model(), &tensor), ElementType::BF16);
        tensor.dtype = "Q6_K".into();
        assert_eq!(plain_dtype(model.model(), &tensor), ElementType::BF16);
        model.set_config(serde_json::json!({"dtype": "float16"}));
        assert_eq!(plain_dtype(model.model(), &tensor), ElementType::F16);
        tensor.dtype = "F32".into();
        assert_eq!(plain_dtype(model.model(), &tensor), ElementType::F32);
    }

    #[test]
    fn widened_vectors_are_narrowed_again() {
        let mut model = TestModel::tiny_llama().model().clone();
        model.narrow = Some("F16".into());
        let mut tensor = model.tensors[0].clone();
        tensor.dtype = "F32".into();
        assert_eq!(plain_dtype(&model, &tensor), ElementType::F32);
        tensor.shape.truncate(1);
        assert_eq!(plain_dtype(&model, &tensor), ElementType::F16);
    }

    #[test]
    fn layers_are_read_from_names() {
        assert_eq!(layer_of("model.layers.12.mlp.up_proj.weight"), Some(12));
        assert_eq!(layer_of("lm_head.weight"), None);
    }
}
