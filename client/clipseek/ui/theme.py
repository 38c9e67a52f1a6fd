"""Colours and fonts: those of the system, so that nothing is fetched."""

from gradio.themes import Base, Color

_FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "PingFang TC",
    "Microsoft JhengHei",
    "Noto Sans CJK TC",
    "Noto Sans TC",
    "sans-serif",
)
_GREEN = Color(
    name="pine",
    c50="#eef6f3",
    c100="#d6eae3",
    c200="#b0d6c9",
    c300="#7cc3ad",
    c400="#4fa38b",
    c500="#2f7f6b",
    c600="#2a6f5e",
    c700="#235b4d",
    c800="#1d493e",
    c900="#183b33",
    c950="#0d231e",
)


def theme() -> Base:
    """The page's theme, light and dark."""
    return Base(
        primary_hue=_GREEN,
        neutral_hue="stone",
        radius_size="lg",
        font=_FONTS,
        font_mono=("ui-monospace", "Menlo", "Consolas", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
    )
