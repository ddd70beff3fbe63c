"""Views of records: recipes, draws that depend on names only, and two backends that apply them."""
