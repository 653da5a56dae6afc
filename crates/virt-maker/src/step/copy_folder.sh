# What is here goes to "$to". Folders that are there stay as they are, links to folders among them.
export to
find . -type d -exec sh -ec 'for folder; do
    [ -d "$to/$folder" ] && continue
    rm -f "$to/$folder"
    mkdir "$to/$folder"
    chmod "$(stat -c %a "$folder")" "$to/$folder"
    chown "$(stat -c %u:%g "$folder")" "$to/$folder"
done' sh {} +
find . ! -type d -exec sh -ec 'for file; do
    rm -f "$to/$file"
    cp -a "$file" "$to/$file"
done' sh {} +
